package boot

import "encoding/binary"

// Xen's public/arch-x86/hvm/start_info.h.
const (
	startInfoMagic   = 0x336ec578
	startInfoVersion = 1 // the first with a memory map
	startInfoSize    = 56
	modEntrySize     = 32
)

// enterPVH writes the start_info structure and what it points to.
func (k *Kernel) enterPVH(m Memory, in bootInfo) (Entry, error) {
	le := binary.LittleEndian
	info := make([]byte, startInfoSize)
	le.PutUint32(info[0:], startInfoMagic)
	le.PutUint32(info[4:], startInfoVersion)
	if in.initrd.Size > 0 {
		mod := make([]byte, modEntrySize)
		le.PutUint64(mod[0:], uint64(in.initrd.GPA))
		le.PutUint64(mod[8:], in.initrd.Size)
		if err := m.WriteAt(mod, modListAddr); err != nil {
			return Entry{}, err
		}
		le.PutUint32(info[12:], 1)
		le.PutUint64(info[16:], uint64(modListAddr))
	}
	le.PutUint64(info[24:], uint64(cmdlineAddr))
	le.PutUint64(info[32:], uint64(in.rsdp))
	le.PutUint64(info[40:], uint64(memMapAddr))
	le.PutUint32(info[48:], uint32(len(in.memMap)))
	if err := m.WriteAt(pvhMap(in.memMap), memMapAddr); err != nil {
		return Entry{}, err
	}
	if err := m.WriteAt(info, startInfoAddr); err != nil {
		return Entry{}, err
	}
	// pvh.pandoc: CR0.PE alone, flat 32-bit segments, a 32-bit TSS, EFLAGS
	// clear, EBX the physical address of start_info.
	e := Entry{
		Protocol: PVH, RIP: uint64(k.PVHEntry), RBX: uint64(startInfoAddr), RSP: uint64(stackTop),
		RFLAGS: rflagsFixed, CR0: cr0PE | cr0ET,
	}
	e.CS, e.Data, e.TR = flatSegments(false)
	return e, e.writeGDT(m)
}
