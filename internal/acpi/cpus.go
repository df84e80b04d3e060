package acpi

import (
	"encoding/binary"
	"fmt"
)

// CPUHotplug is the controller through which processors come and go while the guest
// runs: registers of 64 bits, each as two words of 32 that are accessed with 4
// bytes, in which bit n stands for the processor with UID n.
//
//   - Present: those that are plugged in. Read-only.
//   - Up: those that have come. A read of a word returns the bits and clears those
//     it returned, as one atomic step.
//   - Down: those that the guest is asked to give back. Read like Up.
//   - Eject: a guest that is done with processors writes their bits; they are not
//     present any more when the write returns. Reads return zero.
//
// After setting a bit of Up or Down the device reports GEDEventCPU. The guest then
// reads both registers, and is told of each bit: Notify(CPU, 1) and (CPU, 3).
// Processor 0 neither comes nor goes.
type CPUHotplug struct {
	Registers Register // of Present
}

// Offsets of the registers of CPUHotplug, the size of all, and how many
// processors they have room for.
const (
	CPUHotplugPresent = 0
	CPUHotplugUp      = 8
	CPUHotplugDown    = 16
	CPUHotplugEject   = 24
	CPUHotplugSize    = 32
	CPUHotplugCPUs    = 64
)

func cpuName(i int) string { return fmt.Sprintf("C%03X", i) }

// cpus declares a processor device for each MADT entry, tied to it by _UID.
func (p *Platform) cpus() node {
	var all []node
	if h := p.CPUHotplug; h != nil {
		all = append(all,
			opRegion("CPRG", byte(h.Registers.Space), h.Registers.Addr, CPUHotplugSize),
			field32("CPRG", "CPP0", "CPP1", "CPU0", "CPU1", "CPD0", "CPD1", "CPE0", "CPE1"))
	}
	for i, c := range p.CPUs {
		body := []node{
			defName("_HID", text("ACPI0007")),
			defName("_UID", integer(uint64(i))),
		}
		if p.CPUHotplug != nil && i > 0 {
			body = append(body, plugged(i, c)...)
		}
		all = append(all, device(cpuName(i), body...))
	}
	if p.CPUHotplug != nil {
		all = append(all, method("CPSC", 0, true, p.cpuScan()...))
	}
	return group(all...)
}

// cpuBit returns the suffix of the word that has processor i, and its bit there.
func cpuBit(i int) (word string, bit node) { return fmt.Sprint(i / 32), integer(1 << (i % 32)) }

// plugged are the methods of a processor that comes and goes: whether it is there,
// what the MADT would say of it then, and giving it back. Linux takes the APIC ID
// from _MAT, for in the MADT it is not enabled.
func plugged(i int, c CPU) []node {
	word, bit := cpuBit(i)
	const there = 0xf // present, enabled, shown, functioning (ACPI 6.5, 6.3.7)
	return []node{
		method("_STA", 0, true,
			ifs(and(name("CPP"+word), bit, nowhere), returns(integer(there))),
			returns(integer(0))),
		defName("_MAT", buffer(madtCPU(i, c.APICID, cpuEnabled))),
		method("_EJ0", 1, true, store(bit, name("CPE"+word))),
	}
}

// cpuScan reads each word once, which also clears it, and notifies.
func (p *Platform) cpuScan() (all []node) {
	for i := 1; i < len(p.CPUs); i++ {
		word, bit := cpuBit(i)
		up, down := local(0), local(1)
		if i == 1 || i%32 == 0 {
			all = append(all, store(name("CPU"+word), up), store(name("CPD"+word), down))
		}
		all = append(all,
			ifs(and(up, bit, nowhere), notify(name(cpuName(i)), integer(notifyDeviceCheck))),
			ifs(and(down, bit, nowhere), notify(name(cpuName(i)), integer(notifyEjectRequest))))
	}
	return all
}

// madtCPU is the MADT's entry of a processor (5.2.12.2 and 5.2.12.12). 255 is the
// broadcast id in xAPIC mode, and the UID has a byte too.
func madtCPU(uid int, apicID, flags uint32) (b []byte) {
	le := binary.LittleEndian
	if apicID < 255 && uid < 255 {
		return le.AppendUint32([]byte{madtLAPIC, 8, byte(uid), byte(apicID)}, flags)
	}
	b = le.AppendUint32([]byte{madtX2APIC, 16, 0, 0}, apicID)
	b = le.AppendUint32(b, flags)
	return le.AppendUint32(b, uint32(uid))
}

// checkCPUs refuses processors that cannot be.
func (p *Platform) checkCPUs() error {
	if len(p.CPUs) == 0 || len(p.CPUs) > maxCPUs {
		return wrong("%d CPUs, want 1 to %d", len(p.CPUs), maxCPUs)
	}
	ids := make(map[uint32]bool, len(p.CPUs))
	for _, c := range p.CPUs {
		if ids[c.APICID] {
			return wrong("two CPUs with APIC id %d", c.APICID)
		}
		ids[c.APICID] = true
	}
	switch h := p.CPUHotplug; {
	case p.CPUs[0].Offline:
		return wrong("CPU 0 is offline")
	case h != nil && (p.GED == nil || h.Registers.Addr == 0 || len(p.CPUs) > CPUHotplugCPUs):
		return wrong("CPU hotplug needs a GED and registers, and has room for %d CPUs, not %d", CPUHotplugCPUs, len(p.CPUs))
	}
	return nil
}
