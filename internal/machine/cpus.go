package machine

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/boot"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/vcpu"
	"github.com/hvctl/hvctl/vcpu/cpuid"
)

// startCPUs makes every vCPU, parked. vCPU 0 is set to enter the kernel; the
// others wait for its start-up IPI. Without an entry they are left as they are,
// for LoadState.
func (m *Machine) startCPUs(entry *boot.Entry) error {
	raw, err := m.sys.SupportedCPUID()
	if err != nil {
		return err
	}
	supported := policyCPUID(raw)
	causes := m.causes()
	for i := range m.cfg.MaxCPUs {
		o := vcpu.Options{Index: i, PIO: &m.pio, MMIO: &m.mmio, Causes: causes, Thread: m.cfg.CPUThread, Debug: m.debugExit, Event: m.event}
		if m.plugCPU != nil {
			o.Woken = m.plugCPU.woken
		}
		if entry != nil {
			o.CPUID = func(c *kvm.VCPU) ([]kvm.CPUIDEntry, error) {
				entries, err := m.offer(c, supported, m.cfg.CPUModel)
				return kvmCPUID(entries), err
			}
			o.Setup = func(c *kvm.VCPU) error { return setup(c, i, *entry) }
		}
		cpu, err := vcpu.Start(m.vm, o)
		if err != nil {
			return err
		}
		m.cpus = append(m.cpus, cpu)
	}
	return nil
}

// offer is what a vCPU is told on this host by a model. It runs on the vCPU's
// thread.
func (m *Machine) offer(c *kvm.VCPU, supported []cpuid.Entry, model cpuid.Model) ([]cpuid.Entry, error) {
	khz, err := c.TSCKHz()
	if err != nil {
		khz = 0 // the guest then calibrates, or reads it from kvmclock
	}
	return cpuid.Build(supported, cpuid.Params{Index: c.ID(), Count: m.cfg.MaxCPUs, TSCkHz: khz, Model: model})
}

// setup runs on the vCPU's thread.
func setup(c *kvm.VCPU, index int, entry boot.Entry) error {
	// What firmware leaves behind: fast string operations on, all memory
	// write-back unless a later table says otherwise (SDM vol. 3, 12.11.2.1).
	if _, err := c.SetMSRs([]kvm.MSREntry{
		{Index: kvm.MSRMiscEnable, Data: kvm.MiscEnableFastString},
		{Index: kvm.MSRMTRRDefType, Data: 1<<11 | 6},
	}); err != nil {
		return err
	}
	if index != 0 {
		return nil
	}
	return setEntry(c, entry)
}

func policyCPUID(raw []kvm.CPUIDEntry) []cpuid.Entry {
	out := make([]cpuid.Entry, len(raw))
	for i, e := range raw {
		out[i] = cpuid.Entry{
			Leaf: e.Function, Subleaf: e.Index, Indexed: e.Flags&kvm.CPUIDFlagSignificantIndex != 0,
			EAX: e.EAX, EBX: e.EBX, ECX: e.ECX, EDX: e.EDX,
		}
	}
	return out
}

func kvmCPUID(entries []cpuid.Entry) []kvm.CPUIDEntry {
	out := make([]kvm.CPUIDEntry, len(entries))
	for i, e := range entries {
		out[i] = kvm.CPUIDEntry{Function: e.Leaf, Index: e.Subleaf, EAX: e.EAX, EBX: e.EBX, ECX: e.ECX, EDX: e.EDX}
		if e.Indexed {
			out[i].Flags = kvm.CPUIDFlagSignificantIndex
		}
	}
	return out
}

// setEntry puts vCPU 0 at the kernel's entry point.
func setEntry(c *kvm.VCPU, e boot.Entry) error {
	s, err := c.Sregs()
	if err != nil {
		return err
	}
	s.CS, s.TR = segment(e.CS), segment(e.TR)
	data := segment(e.Data)
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.GDT = kvm.DTable{Base: e.GDT.Base, Limit: e.GDT.Limit}
	s.IDT = kvm.DTable{Base: e.IDT.Base, Limit: e.IDT.Limit}
	s.CR0, s.CR3, s.CR4, s.EFER = e.CR0, e.CR3, e.CR4, e.EFER
	if err := c.SetSregs(&s); err != nil {
		return fmt.Errorf("kernel entry (%v): %w", e.Protocol, err)
	}
	return c.SetRegs(&kvm.Regs{RIP: e.RIP, RSP: e.RSP, RBX: e.RBX, RSI: e.RSI, RFLAGS: e.RFLAGS})
}

func segment(s boot.Segment) kvm.Segment {
	return kvm.Segment{
		Base: s.Base, Limit: s.Limit, Selector: s.Selector, Type: s.Type,
		Present: s.Present, DPL: s.DPL, DB: s.DB, S: s.S, L: s.L, G: s.G,
	}
}
