package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/hvctl/hvctl/memory"
)

// Protocol is a way to enter a kernel.
type Protocol uint8

// The entry protocols.
const (
	// Auto is PVH when the kernel has its note, else Linux64.
	Auto Protocol = iota
	// PVH enters in 32-bit protected mode at the address in the kernel's
	// XEN_ELFNOTE_PHYS32_ENTRY note. It cannot carry a random seed.
	PVH
	// Linux64 enters in long mode at the ELF entry, with boot_params.
	Linux64
)

func (p Protocol) String() string {
	switch p {
	case Auto:
		return "auto"
	case PVH:
		return "pvh"
	case Linux64:
		return "linux64"
	}
	return fmt.Sprintf("Protocol(%d)", uint8(p))
}

// Entry is the state in which vCPU 0 must start. Registers that are not named
// are zero; the other vCPUs wait for their start-up IPI.
type Entry struct {
	Protocol           Protocol // PVH or Linux64
	RIP, RSP, RBX, RSI uint64
	RFLAGS             uint64
	CR0, CR3, CR4      uint64
	EFER               uint64
	CS, Data, TR       Segment // Data goes to DS, ES, FS, GS and SS
	GDT                Table   // describes the same segments
	IDT                Table   // empty: interrupts are off
}

// Segment is a segment register with its hidden part, in the terms of the
// Intel SDM (vol. 3, 3.4.5). Flags are 0 or 1.
type Segment struct {
	Selector uint16
	Base     uint64
	Limit    uint32 // in bytes, whatever G says
	Type     uint8
	S        uint8 // code or data, not system
	DPL      uint8
	Present  uint8
	L        uint8 // 64-bit code
	DB       uint8 // 32-bit
	G        uint8 // granularity 4 KiB
}

// Table is a descriptor table register.
type Table struct {
	Base  uint64
	Limit uint16
}

const (
	cr0PE            = 1 << 0
	cr0ET            = 1 << 4
	cr0PG            = 1 << 31
	cr4PAE           = 1 << 5
	eferLME, eferLMA = 1 << 8, 1 << 10

	rflagsFixed = 1 << 1 // bit 1 always reads as one

	// Selectors that boot.rst demands (__BOOT_CS, __BOOT_DS); PVH leaves
	// them open.
	selCode, selData, selTask = 0x10, 0x18, 0x20

	typeCode, typeData, typeBusyTSS = 0xb, 0x3, 0xb
	tssLimit                        = 0x67
)

func flatSegments(long bool) (code, data, task Segment) {
	code = Segment{Selector: selCode, Limit: 0xffffffff, Type: typeCode, S: 1, Present: 1, DB: 1, G: 1}
	if long {
		code.L, code.DB = 1, 0
	}
	data = Segment{Selector: selData, Limit: 0xffffffff, Type: typeData, S: 1, Present: 1, DB: 1, G: 1}
	task = Segment{Selector: selTask, Limit: tssLimit, Type: typeBusyTSS, Present: 1}
	return code, data, task
}

// descriptor packs s as an 8-byte segment descriptor (SDM vol. 3, 3.4.5).
func (s Segment) descriptor() uint64 {
	limit := uint64(s.Limit)
	if s.G == 1 {
		limit >>= 12
	}
	return limit&0xffff | s.Base&0xffffff<<16 |
		uint64(s.Type)<<40 | uint64(s.S)<<44 | uint64(s.DPL)<<45 | uint64(s.Present)<<47 |
		limit>>16&0xf<<48 | uint64(s.L)<<53 | uint64(s.DB)<<54 | uint64(s.G)<<55 |
		s.Base>>24&0xff<<56
}

// writeGDT places a GDT that describes e's segments and points e at it. The
// task segment takes two slots: its descriptor is 16 bytes in long mode.
func (e *Entry) writeGDT(m Memory) error {
	gdt := []uint64{0, 0, e.CS.descriptor(), e.Data.descriptor(), e.TR.descriptor(), e.TR.Base >> 32}
	var b []byte
	for _, d := range gdt {
		b = binary.LittleEndian.AppendUint64(b, d)
	}
	e.GDT = Table{Base: uint64(gdtAddr), Limit: uint16(len(b) - 1)}
	return m.WriteAt(b, gdtAddr)
}

// writeIdentityMap builds page tables that map the first 4 GiB onto
// themselves with 2 MiB pages, and returns CR3. 1 GiB pages would be fewer,
// but not every CPU has them.
func writeIdentityMap(m Memory) (uint64, error) {
	const (
		entries                  = 512
		present, writable, large = 1 << 0, 1 << 1, 1 << 7
		dirs                     = 4
	)
	tables := make([]uint64, (2+dirs)*entries)
	pml4, pdpt, pd := tables[:entries], tables[entries:2*entries], tables[2*entries:]
	pml4[0] = uint64(pageTableAddr) + 0x1000 | present | writable
	for i := range dirs {
		pdpt[i] = uint64(pageTableAddr) + uint64(2+i)*0x1000 | present | writable
	}
	for i := range pd {
		pd[i] = uint64(i)<<21 | present | writable | large
	}
	b := make([]byte, 0, len(tables)*8)
	for _, e := range tables {
		b = binary.LittleEndian.AppendUint64(b, e)
	}
	return uint64(pageTableAddr), m.WriteAt(b, pageTableAddr)
}

// bootInfo is what either protocol has to tell the kernel.
type bootInfo struct {
	initrd  Region // Size 0: none
	cmdline string
	rsdp    memory.GPA
	memMap  []mapEntry
	seed    []byte
}
