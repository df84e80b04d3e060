package acpi

import "fmt"

// PCIHotplug is the controller through which devices come to and leave slots of
// the root bus while the guest runs: three registers of 32 bits each, one after
// the other, in which bit n stands for slot n. Each is accessed with 4 bytes.
//
//   - Up: slots that a device has come to. A read returns the bits and clears
//     those it returned, as one atomic step.
//   - Down: slots whose device the guest is asked to give back. Read like Up.
//   - Eject: a guest that is done with the devices of the slots writes their
//     bits; the device is gone when the write returns. Reads return zero.
//
// After setting a bit of Up or Down the device reports GEDEventPCI. The guest then
// reads both registers, and is told of each bit: Notify(slot, 1) and (slot, 3).
//
// Slots have no _STA: without one, Linux asks for the function's vendor, which is
// what decides in the end.
type PCIHotplug struct {
	Registers Register // of Up
	Slots     []int    // in ACPI's namespace, 1 to 31
}

// Offsets of the registers of PCIHotplug, and the size of all.
const (
	PCIHotplugUp    = 0
	PCIHotplugDown  = 4
	PCIHotplugEject = 8
	PCIHotplugSize  = 12
)

// Values of Notify (ACPI 6.5, 5.6.6).
const (
	notifyDeviceCheck  = 1
	notifyEjectRequest = 3
)

func slotName(n int) string { return fmt.Sprintf("S%02X_", n) }

// slots declares the controller and the slots, below the host bridge. Linux's
// acpiphp takes each device with an _EJ0 for a slot (drivers/pci/hotplug).
func (h *PCIHotplug) slots() node {
	all := []node{
		opRegion("HPRG", byte(h.Registers.Space), h.Registers.Addr, PCIHotplugSize),
		field32("HPRG", "HPUP", "HPDN", "HPEJ"),
	}
	up, down := local(0), local(1)
	scan := []node{store(name("HPUP"), up), store(name("HPDN"), down)} // one read each, which also clears
	for _, n := range h.Slots {
		bit := integer(1 << n)
		all = append(all, device(slotName(n),
			defName("_ADR", integer(uint64(n)<<16)),
			defName("_SUN", integer(uint64(n))),
			method("_EJ0", 1, true, store(bit, name("HPEJ")))))
		scan = append(scan,
			ifs(and(up, bit, nowhere), notify(name(slotName(n)), integer(notifyDeviceCheck))),
			ifs(and(down, bit, nowhere), notify(name(slotName(n)), integer(notifyEjectRequest))))
	}
	return group(append(all, method("HPSC", 0, true, scan...))...)
}

// pciScan is the call of what slots declares, from the GED's method.
const pciScan = `^^PCI0.HPSC`

func (h *PCIHotplug) check() error {
	if h.Registers.Addr == 0 {
		return wrong("PCI hotplug without registers")
	}
	for i, n := range h.Slots {
		if n < 1 || n > 31 || i > 0 && n <= h.Slots[i-1] {
			return wrong("PCI hotplug slots %v", h.Slots)
		}
	}
	return nil
}
