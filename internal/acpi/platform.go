package acpi

import (
	"fmt"

	"github.com/hvctl/hvctl/memory"
)

// Platform is the machine to be described. It is plain data: internal/machine
// decides each address once and gives the same one to the device and to ACPI.
type Platform struct {
	// Base is where the tables start; the RSDP is the first. Limit is the
	// first address they must not touch. Both lie in RAM that the memory map
	// marks as reserved; 0xe0000 and 0x100000 fit. Base is 64-byte aligned.
	Base, Limit memory.GPA

	CPUs   []CPU      // in order of their ACPI processor UID, which is the index
	IOAPIC memory.GPA // 0xfec00000; it serves GSIs from 0 on

	PCI        *PCI         // nil: no PCI
	VirtioMMIO []VirtioMMIO // in order of discovery
	COM1       bool         // 16550 at port 0x3f8, GSI 4
	I8042      bool         // keyboard controller at ports 0x60 and 0x64, GSI 1
	PanicPort  uint16       // where the guest reports a panic, one byte (pvpanic); 0: nowhere

	// CPUHotplug lets processors but the first come and go. nil: they do not. Needs
	// a GED.
	CPUHotplug *CPUHotplug

	Watchdog *Watchdog // nil: none

	// GED delivers the power button and, when they are set, changes of VMGenID
	// and VMClock. nil: none can be delivered, and no power button is declared.
	GED *GED
	// VMGenID is the address of the 16-byte generation id, 8-byte aligned, in
	// reserved RAM. 0: none. Needs a GED.
	VMGenID memory.GPA
	// VMClock is the address of a page of reserved RAM with the VM clock's
	// structure (UAPI.13). 0: none. Needs a GED.
	VMClock memory.GPA

	// ResetReg resets the machine when the guest writes ResetValue, one byte.
	ResetReg   Register
	ResetValue uint8
	// SleepControl is the byte the guest writes S5Value to for power-off;
	// SleepStatus is read and written beside it and may just ignore that
	// (ACPI 6.5, 4.8.3.7).
	SleepControl, SleepStatus Register
}

// CPU is one processor that is there at boot or may be plugged in later.
type CPU struct {
	APICID  uint32
	Offline bool // to be plugged in later: "online capable", not enabled
}

// Space is an ACPI address space.
type Space uint8

// The address spaces of Register.
const (
	SystemMemory Space = regionMemory
	SystemIO     Space = regionIO
)

// Register is the address of a register; its width follows from its use.
type Register struct {
	Space Space
	Addr  uint64 // port number or guest physical address; 0: no such register
}

// Window is a range of guest physical addresses.
type Window struct {
	Base memory.GPA
	Size uint64 // bytes; 0: no such window
}

func (w Window) last() memory.GPA { return w.Base + memory.GPA(w.Size) - 1 }

// PCI is one PCI Express host bridge, segment 0, root bus 0. Its devices use
// MSI and MSI-X only: no interrupt pins are routed.
type PCI struct {
	ECAMBase memory.GPA // 1 MiB aligned
	Buses    int        // 1 to 256; the ECAM window is Buses MiB
	MMIO32   Window     // for BARs, below 4 GiB
	MMIO64   Window     // for 64-bit BARs
	// CF8 says that configuration ports 0xcf8 to 0xcff exist as well. Linux
	// does not need them, but without them it complains early ("No config
	// space access function found") and then finds the ECAM window.
	CF8 bool
	// Ports are given to I/O BARs, first to last; both 0: none.
	PortFirst, PortLast uint16
	// KeepBARs tells the guest to leave BARs as it finds them (_DSM function
	// 5 returns 0). Set it only if all BARs are assigned before boot.
	KeepBARs bool
	// Hotplug lets devices come and go. nil: they do not. Needs a GED.
	Hotplug *PCIHotplug
}

// VirtioMMIO is one virtio-mmio transport (VIRTIO 1.2, 4.2). Its interrupt is
// edge triggered, active high: raise it with an irqfd, without resampling.
type VirtioMMIO struct {
	Base memory.GPA // page aligned, below 4 GiB
	Size uint32     // bytes; at least 0x200
	GSI  uint32
}

// GED is the generic event device (ACPI 6.5, 5.6.9), our replacement for the
// general purpose event block. Its only register, 32 bits wide and read by the
// guest with one 4-byte access, holds the pending events, the GEDEvent bits:
//
//   - To report an event the device sets its bit, then raises GSI (an edge).
//   - A read returns all pending bits and clears those it returned, as one
//     atomic step. A bit that is set after it comes with a new edge, so none
//     is lost; an edge that finds no bit set is harmless.
//   - Writes are ignored, and so are reads of other sizes (they return zero
//     and clear nothing).
//   - Pending bits are part of the saved state; after a restore the device
//     raises GSI when any is set.
//
// The power button reaches only a guest with a driver for it (Linux: "button",
// a module in Debian's kernels) and somebody who listens.
type GED struct {
	Register Register
	GSI      uint32
}

// The events of GED's register. Bits without a name are reserved and ignored.
const (
	GEDEventPowerButton uint32 = 1 << 0 // Notify(\_SB.PWRB, 0x80)
	GEDEventVMGenID     uint32 = 1 << 1 // Notify(\_SB.VGEN, 0x80)
	GEDEventPCI         uint32 = 1 << 2 // the registers of PCIHotplug have something new
	GEDEventCPU         uint32 = 1 << 3 // the registers of CPUHotplug have something new
	GEDEventVMClock     uint32 = 1 << 6 // Notify(\_SB.VCLK, 0x80)
)

// VMClockSize is the size of the VM clock's range in bytes.
const VMClockSize = 0x1000

// S5Value is what a guest writes to SleepControl to switch the machine off:
// SLP_TYP 5 from the _S5_ package, and SLP_EN.
const S5Value = sleepTypeS5<<2 | 1<<5

const sleepTypeS5 = 5

const (
	fourGiB  = 1 << 32
	lapicGPA = 0xfee00000
	maxCPUs  = 4096 // device names have three hexadecimal digits
	maxMMIO  = 256
)

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrPlatform}, args...)...)
}

func (p *Platform) check() error {
	switch {
	case p.Base%64 != 0 || p.Base == 0 || p.Limit <= p.Base || p.Limit > fourGiB:
		return wrong("tables from %v to %v", p.Base, p.Limit)
	case p.IOAPIC == 0 || p.IOAPIC >= fourGiB:
		return wrong("I/O APIC at %v", p.IOAPIC)
	case len(p.VirtioMMIO) > maxMMIO:
		return wrong("%d virtio-mmio devices, more than %d", len(p.VirtioMMIO), maxMMIO)
	case p.VMGenID != 0 && (p.GED == nil || p.VMGenID%8 != 0):
		return wrong("VM generation id at %v needs a GED and 8-byte alignment", p.VMGenID)
	case p.VMClock != 0 && (p.GED == nil || p.VMClock%VMClockSize != 0):
		return wrong("VM clock at %v needs a GED and a page of its own", p.VMClock)
	case p.GED != nil && p.GED.Register.Addr == 0:
		return wrong("GED without a register")
	}
	if err := p.checkCPUs(); err != nil {
		return err
	}
	for _, r := range []struct {
		what string
		Register
	}{{"reset", p.ResetReg}, {"sleep control", p.SleepControl}, {"sleep status", p.SleepStatus}} {
		if r.Addr == 0 || r.Space > SystemIO {
			return wrong("no %s register", r.what)
		}
	}
	return p.checkWindows()
}

// checkWindows refuses address ranges that cannot be or that overlap.
func (p *Platform) checkWindows() error {
	type named struct {
		what string
		Window
		low bool // must end below 4 GiB
	}
	all := []named{
		{"tables", Window{p.Base, uint64(p.Limit - p.Base)}, true},
		{"I/O APIC", Window{p.IOAPIC, 0x1000}, true},
		{"local APIC", Window{lapicGPA, 0x1000}, true},
	}
	if g := p.PCI; g != nil {
		if g.Buses < 1 || g.Buses > 256 || g.ECAMBase%(1<<20) != 0 || g.ECAMBase == 0 {
			return wrong("ECAM at %v for %d buses", g.ECAMBase, g.Buses)
		}
		if h := g.Hotplug; h != nil {
			if p.GED == nil {
				return wrong("PCI hotplug needs a GED")
			}
			if err := h.check(); err != nil {
				return err
			}
		}
		if g.PortLast < g.PortFirst || g.PortFirst == 0 && g.PortLast != 0 {
			return wrong("PCI ports %#x to %#x", g.PortFirst, g.PortLast)
		}
		all = append(all, named{"ECAM", g.ecam(), false},
			named{"32-bit PCI window", g.MMIO32, true}, named{"64-bit PCI window", g.MMIO64, false})
	}
	for i, v := range p.VirtioMMIO {
		if v.Base%0x1000 != 0 || v.Size < 0x200 {
			return wrong("virtio-mmio device %d at %v of %#x bytes", i, v.Base, v.Size)
		}
		all = append(all, named{fmt.Sprintf("virtio-mmio device %d", i), Window{v.Base, uint64(v.Size)}, true})
	}
	for i, a := range all {
		if a.Size == 0 {
			continue
		}
		if a.last() < a.Base || a.Base == 0 || a.low && a.last() >= fourGiB {
			return wrong("%s at %v of %#x bytes", a.what, a.Base, a.Size)
		}
		for _, b := range all[:i] {
			if b.Size != 0 && a.Base <= b.last() && b.Base <= a.last() {
				return wrong("%s at %v overlaps %s at %v", a.what, a.Base, b.what, b.Base)
			}
		}
	}
	return nil
}

func (g *PCI) ecam() Window { return Window{g.ECAMBase, uint64(g.Buses) << 20} }
