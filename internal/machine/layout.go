package machine

import (
	"github.com/hvctl/hvctl/internal/acpi"
	"github.com/hvctl/hvctl/internal/boot"
	"github.com/hvctl/hvctl/memory"
)

// The guest physical address space. RAM is 0 to 3 GiB, and from 4 GiB on;
// between the two lie the devices:
//
//	0xc0000000  virtio-mmio transports, one page each
//	0xc1000000  32-bit PCI window
//	0xeec00000  ECAM, one bus
//	0xfec00000  I/O APIC          (in KVM)
//	0xfee00000  local APICs       (in KVM)
//	0xfffbc000  identity map page (Intel hosts without unrestricted guest)
//	0xfffbd000  TSS, three pages  (the same)
//
// and above every RAM size we allow, within the 39 bits that the smallest
// hosts have, the 64-bit PCI window.
const (
	virtioMMIOBase memory.GPA = 0xc000_0000
	virtioMMIOStep            = 0x1000
	pci32Base      memory.GPA = 0xc100_0000
	pci32Size                 = 0x2d00_0000
	ecamBase       memory.GPA = 0xeec0_0000
	ecamBuses                 = 1
	ioapicBase     memory.GPA = 0xfec0_0000
	identityBase              = 0xfffb_c000
	tssBase                   = 0xfffb_d000
	pci64Base      memory.GPA = 256 << 30
	pci64Size                 = 256 << 30
)

// Below 1 MiB, in the range that boot reserves for us.
const (
	vmGenIDAddr = boot.ACPILimit - 0x1000
	vmClockAddr = vmGenIDAddr - acpi.VMClockSize
	tablesLimit = vmClockAddr
	resetVector = 0xffff0 // where a kernel jumps that wants the BIOS to reset
)

// resetCode is at resetVector, for there is no firmware: it pulls the keyboard
// controller's reset line. It means the same in 16-, 32- and 64-bit mode.
var resetCode = []byte{
	0xb0, 0xfe, // mov al, 0xfe
	0xe6, 0x64, // out 0x64, al
	0xf4,       // hlt
	0xeb, 0xfd, // jmp to hlt
}

// portPanic is where QEMU puts its pvpanic device; nothing depends on it.
const portPanic = 0x505

// I/O ports of the power device.
const (
	portPower     = 0x600
	powerSize     = 8
	offEvents     = 0 // GED register, 32 bits
	offSleep      = 4 // sleep control
	offSleepState = 5 // sleep status
	offReset      = 6
	resetValue    = 0x01
)

// portSlots is where the registers of the PCI hotplug controller are.
const portSlots = 0x640

// portCPUs is where the registers of the processors' controller are.
const portCPUs = 0x660

func ioRegister(off uint64) acpi.Register {
	return acpi.Register{Space: acpi.SystemIO, Addr: portPower + off}
}
