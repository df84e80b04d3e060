package coredump

import (
	"bytes"
	"encoding/binary"
)

// maxCoreInfo bounds what is taken for the guest's VMCOREINFO, in bytes; Linux
// makes one page of it.
const maxCoreInfo = 8 << 10

// coreInfoHead is how the note begins that Linux keeps ready for a crash, on a
// page of its own (kernel/vmcore_info.c): sizes, type, name.
const coreInfoHead = 12 + len(coreInfo) + 1 + 1 // to a multiple of four

// coreInfoOf returns the content of the VMCOREINFO note that begins at b; nil
// when none does. The guest says what is in it.
func coreInfoOf(b []byte) []byte {
	if len(b) < coreInfoHead || binary.LittleEndian.Uint32(b) != uint32(len(coreInfo)+1) ||
		binary.LittleEndian.Uint32(b[8:]) != ntCoreInfo || string(b[12:12+len(coreInfo)+1]) != coreInfo+"\x00" {
		return nil
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n == 0 || n > maxCoreInfo || uint64(n) > uint64(len(b)-coreInfoHead) {
		return nil
	}
	desc := b[coreInfoHead : coreInfoHead+int(n)]
	if !bytes.HasPrefix(desc, []byte("OSRELEASE=")) {
		return nil
	}
	return bytes.Clone(desc) // the guest may run again and change it
}
