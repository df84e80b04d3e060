package acpi

import "fmt"

// dsdt is the differentiated definition block: every device the guest cannot
// find by itself.
func (p *Platform) dsdt() ([]byte, error) {
	sb := []node{p.cpus()}
	if p.PCI != nil {
		sb = append(sb, p.PCI.motherboard(), p.PCI.bridge())
	}
	for i, v := range p.VirtioMMIO {
		sb = append(sb, v.device(i))
	}
	if p.COM1 {
		sb = append(sb, device("COM1",
			defName("_HID", eisaID("PNP0501")),
			defName("_UID", integer(0)),
			defName("_DDN", text("COM1")),
			defName("_CRS", resourceTemplate(ioPorts(0x3f8, 8), edgeInterrupt(4)))))
	}
	if p.I8042 {
		sb = append(sb, device("PS2K",
			defName("_HID", eisaID("PNP0303")),
			defName("_CRS", resourceTemplate(ioPorts(0x60, 1), ioPorts(0x64, 1), edgeInterrupt(1)))))
	}
	if p.PanicPort != 0 {
		sb = append(sb, device("PVPN",
			defName("_HID", text("QEMU0001")),
			defName("_CRS", resourceTemplate(ioPorts(p.PanicPort, 1)))))
	}
	if p.GED != nil {
		sb = append(sb, p.events())
	}
	// \_S5_ (7.4.2.7): all four elements, or some guests refuse to use it.
	body, err := encode(
		scope("_SB", sb...),
		defName("_S5", pkg(integer(sleepTypeS5), integer(sleepTypeS5), integer(0), integer(0))))
	if err != nil {
		return nil, err
	}
	// Revision 2: integers are 64 bits wide.
	return sealed("DSDT", 2, body), nil
}

// device declares one virtio-mmio transport by the id Linux's driver matches.
func (v VirtioMMIO) device(i int) node {
	return device(fmt.Sprintf("VR%02X", i),
		defName("_HID", text("LNRO0005")),
		defName("_UID", integer(uint64(i))),
		defName("_CRS", resourceTemplate(memory32(v.Base, uint64(v.Size)), edgeInterrupt(v.GSI))))
}

// motherboard claims the ECAM window: Linux ignores an MCFG whose range no
// motherboard resource covers (PCI firmware 3.3, 4.1.2).
func (g *PCI) motherboard() node {
	w := g.ecam()
	res := memWindow64(w.Base, w.Size, consumerFixed)
	if w.last() < fourGiB {
		res = memory32(w.Base, w.Size)
	}
	return device("MBRD",
		defName("_HID", eisaID("PNP0C02")),
		defName("_UID", integer(0)),
		defName("_CRS", resourceTemplate(res)))
}

// bridge declares the PCI Express host bridge.
func (g *PCI) bridge() node {
	windows := []resource{busRange(0, uint16(g.Buses-1))}
	if g.CF8 {
		windows = append(windows, ioPorts(0xcf8, 8))
	}
	if g.PortLast != 0 {
		windows = append(windows, ioWindow(g.PortFirst, g.PortLast))
	}
	if g.MMIO32.Size != 0 {
		windows = append(windows, memWindow32(g.MMIO32.Base, g.MMIO32.Size))
	}
	if g.MMIO64.Size != 0 {
		windows = append(windows, memWindow64(g.MMIO64.Base, g.MMIO64.Size, producerFixed))
	}
	slots := group()
	if g.Hotplug != nil {
		slots = g.Hotplug.slots()
	}
	return device("PCI0",
		defName("_HID", eisaID("PNP0A08")),
		defName("_CID", eisaID("PNP0A03")),
		defName("_UID", integer(0)),
		defName("_SEG", integer(0)),
		defName("_BBN", integer(0)),
		defName("_CRS", resourceTemplate(windows...)),
		osc(),
		g.dsm(),
		slots)
}

// Ids of what _OSC and _DSM of a host bridge may be asked (PCI firmware 3.3,
// 4.5.1 and 4.6).
const (
	oscPCI = "33DB4D5B-1FF7-401C-9657-7441C03DD766"
	dsmPCI = "E5C937D0-3553-4D7A-9117-EA4D19C3434D"
)

// Bits of _OSC (ACPI 6.5, 6.2.11.1 and PCI firmware 3.3, table 4-5).
const (
	oscUnknownUUID     = 1 << 2
	oscUnknownRevision = 1 << 3
	oscMasked          = 1 << 4

	oscPCIeCapability = 1 << 4
)

// osc grants the guest control of the PCI Express capability structures and
// of nothing else: there are no ports, so no native hot-plug, PME, AER or LTR.
func osc() node {
	control := local(0)
	return method("_OSC", 4, true,
		dwordField(arg(3), 0, "CDW1"),
		ifs(lEqual(arg(0), uuid(oscPCI)),
			dwordField(arg(3), 8, "CDW3"),
			and(name("CDW3"), integer(oscPCIeCapability), control),
			ifs(lNot(lEqual(arg(1), integer(1))), or(name("CDW1"), integer(oscUnknownRevision), name("CDW1"))),
			ifs(lNot(lEqual(name("CDW3"), control)), or(name("CDW1"), integer(oscMasked), name("CDW1"))),
			store(control, name("CDW3"))),
		elses(or(name("CDW1"), integer(oscUnknownUUID), name("CDW1"))),
		returns(arg(3)))
}

// dsm answers function 5, "may the guest move what the firmware assigned":
// 0 is no, 1 is yes (4.6.5). Function 0 lists the functions there are.
func (g *PCI) dsm() node {
	move := uint64(1)
	if g.KeepBARs {
		move = 0
	}
	return method("_DSM", 4, true,
		ifs(lEqual(arg(0), uuid(dsmPCI)),
			ifs(lEqual(arg(2), integer(0)), returns(buffer([]byte{1<<0 | 1<<5}))),
			ifs(lEqual(arg(2), integer(5)), returns(integer(move)))),
		returns(buffer([]byte{0})))
}

// events declares the GED and what it notifies.
func (p *Platform) events() node {
	pending := local(0)
	devices := []node{device("PWRB",
		defName("_HID", eisaID("PNP0C0C")),
		defName("_UID", integer(0)))}
	handler := []node{
		store(name("GEVT"), pending), // one read, which also clears
		ifs(and(pending, integer(uint64(GEDEventPowerButton)), nowhere), notify(name("PWRB"), integer(0x80))),
	}
	if p.VMGenID != 0 {
		// Both ids are needed: Windows knows the second, and Linux before 6.10
		// binds its driver by the hardware id alone.
		devices = append(devices, device("VGEN",
			defName("_HID", text("VMGENCTR")),
			defName("_CID", text("VM_Gen_Counter")),
			defName("_DDN", text("VM_Gen_Counter")),
			defName("ADDR", pkg(integer(uint64(p.VMGenID)&0xffffffff), integer(uint64(p.VMGenID)>>32)))))
		handler = append(handler,
			ifs(and(pending, integer(uint64(GEDEventVMGenID)), nowhere), notify(name("VGEN"), integer(0x80))))
	}
	if p.PCI != nil && p.PCI.Hotplug != nil {
		handler = append(handler, ifs(and(pending, integer(uint64(GEDEventPCI)), nowhere), name(pciScan)))
	}
	if p.CPUHotplug != nil {
		handler = append(handler, ifs(and(pending, integer(uint64(GEDEventCPU)), nowhere), name("CPSC")))
	}
	if p.VMClock != 0 {
		devices = append(devices, device("VCLK",
			defName("_HID", text("AMZNC10C")),
			defName("_CID", text("VMCLOCK")),
			defName("_DDN", text("VMCLOCK")),
			defName("_CRS", resourceTemplate(memory32(p.VMClock, VMClockSize)))))
		handler = append(handler,
			ifs(and(pending, integer(uint64(GEDEventVMClock)), nowhere), notify(name("VCLK"), integer(0x80))))
	}
	ged := device("GED",
		defName("_HID", text("ACPI0013")),
		defName("_UID", integer(0)),
		defName("_CRS", resourceTemplate(edgeInterrupt(p.GED.GSI))),
		opRegion("GREG", byte(p.GED.Register.Space), p.GED.Register.Addr, 4),
		field32("GREG", "GEVT"),
		method("_EVT", 1, true, handler...))
	return group(append(devices, ged)...)
}
