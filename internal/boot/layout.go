package boot

import "github.com/hvctl/hvctl/memory"

// Guest physical addresses of the boot structures; see the package comment.
const (
	gdtAddr       memory.GPA = 0x500
	startInfoAddr memory.GPA = 0x6000
	modListAddr   memory.GPA = 0x6040
	memMapAddr    memory.GPA = 0x7000
	zeroPageAddr  memory.GPA = 0x7000
	stackTop      memory.GPA = 0x8ff0
	pageTableAddr memory.GPA = 0x9000
	cmdlineAddr   memory.GPA = 0x20000
	cmdlineRoom              = 64 << 10
	setupDataAddr memory.GPA = 0x30000

	lowRAMEnd memory.GPA = 0x9fc00 // where a PC's EBDA begins
	oneMiB    memory.GPA = 1 << 20
)

// ACPIBase and ACPILimit bound the range that is always reserved in the
// guest's memory map, is backed by RAM and is left to the caller: ACPI tables
// and the VM generation id. The RSDP at ACPIBase is also found by a guest that
// scans for it.
const (
	ACPIBase  memory.GPA = 0xe0000
	ACPILimit memory.GPA = oneMiB
)
