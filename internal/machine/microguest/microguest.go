// Package microguest makes kernels of a few instructions: what tests and
// measurements of a machine boot where a whole operating system would only
// hide what is looked at, or where the host cannot run one.
package microguest

import (
	"bytes"
	"encoding/binary"
	"os"
)

// Where a kernel lies, and a 32-bit counter that it may use, as guest physical
// addresses.
const (
	KernelAt  = 0x100000
	CounterAt = 0x180000
)

// Spin counts at CounterAt for ever.
var Spin = []byte{0xf0, 0xff, 0x05, 0x00, 0x00, 0x18, 0x00, 0xeb, 0xf7}

// Write makes the file path: an ELF kernel with a PVH entry (Xen note 18) whose
// 32-bit code is given.
func Write(path string, code ...byte) error {
	const headers = 64 + 2*56
	note := []byte{4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, 'X', 'e', 'n', 0}
	note = binary.LittleEndian.AppendUint32(note, KernelAt)
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // a buffer never fails
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	put([]uint16{2, 62}) // EXEC, x86-64
	put(uint32(1))
	put([]uint64{KernelAt, 64, 0}) // entry, program headers
	put(uint32(0))
	put([]uint16{64, 56, 2, 0, 0, 0})
	load := []uint64{headers + uint64(len(note)), KernelAt, KernelAt, uint64(len(code)), 0x100000, 0x1000}
	put([]uint32{1, 7})
	put(load)
	put([]uint32{4, 4})
	put([]uint64{headers, 0, 0, uint64(len(note)), uint64(len(note)), 4})
	b.Write(note)
	b.Write(code)
	return os.WriteFile(path, b.Bytes(), 0o600)
}
