package coredump

import (
	"bytes"
	"encoding/binary"
)

// CPU is the registers of one CPU.
type CPU struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64

	CS, DS, ES, FS, GS, SS, LDT, TR Segment
	GDT, IDT                        Segment // base and limit
	CR0, CR2, CR3, CR4              uint64
	KernelGSBase                    uint64

	FPU [512]byte // as FXSAVE stores it
}

// Segment is a segment register.
type Segment struct {
	Selector, Limit, Flags uint32 // Flags as in the second word of a descriptor
	Base                   uint64
}

// Types of notes.
const (
	ntPRStatus  = 1
	ntFPRegSet  = 2
	ntQEMU      = 0
	ntCoreInfo  = 0
	coreName    = "CORE"
	qemuName    = "QEMU"
	coreInfo    = "VMCOREINFO"
	qemuVersion = 1
)

// note appends a note.
func note(b []byte, name string, typ uint32, desc []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(name)+1))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(desc)))
	b = binary.LittleEndian.AppendUint32(b, typ)
	b = pad4(append(append(b, name...), 0))
	return pad4(append(b, desc...))
}

func pad4(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }

// words writes each as a little-endian number of its own size.
func words(all ...any) []byte {
	var b bytes.Buffer
	for _, v := range all {
		_ = binary.Write(&b, binary.LittleEndian, v) // fixed-size numbers into a buffer
	}
	return b.Bytes()
}

// notes appends those of CPU number n.
func (c *CPU) notes(b []byte, n int) []byte {
	b = note(b, coreName, ntPRStatus, c.prstatus(n))
	b = note(b, coreName, ntFPRegSet, c.FPU[:])
	return note(b, qemuName, ntQEMU, c.qemu())
}

// prstatus is struct elf_prstatus of x86-64.
func (c *CPU) prstatus(n int) []byte {
	pid := uint32(n + 1)
	return words(
		[12]byte{}, uint32(0), [2]uint64{}, // signal: none
		pid, uint32(0), uint32(0), uint32(0),
		[8]uint64{}, // times
		c.R15, c.R14, c.R13, c.R12, c.RBP, c.RBX, c.R11, c.R10, c.R9, c.R8,
		c.RAX, c.RCX, c.RDX, c.RSI, c.RDI, ^uint64(0), // no system call
		c.RIP, uint64(c.CS.Selector), c.RFLAGS, c.RSP, uint64(c.SS.Selector),
		c.FS.Base, c.GS.Base, uint64(c.DS.Selector), uint64(c.ES.Selector), uint64(c.FS.Selector), uint64(c.GS.Selector),
		uint64(1), // there are floating point registers
	)
}

// qemu is QEMU's struct QEMUCPUState (target/i386/arch_dump.c).
func (c *CPU) qemu() []byte {
	const size = 2*4 + 18*8 + 10*24 + 5*8 + 8
	b := words(
		uint32(qemuVersion), uint32(size),
		c.RAX, c.RBX, c.RCX, c.RDX, c.RSI, c.RDI, c.RSP, c.RBP,
		c.R8, c.R9, c.R10, c.R11, c.R12, c.R13, c.R14, c.R15, c.RIP, c.RFLAGS,
	)
	for _, s := range []Segment{c.CS, c.DS, c.ES, c.FS, c.GS, c.SS, c.LDT, c.TR, c.GDT, c.IDT} {
		b = append(b, words(s.Selector, s.Limit, s.Flags, uint32(0), s.Base)...)
	}
	return append(b, words(c.CR0, uint64(0), c.CR2, c.CR3, c.CR4, c.KernelGSBase)...)
}
