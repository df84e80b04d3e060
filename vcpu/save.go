package vcpu

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hvctl/hvctl/kvm"
)

// step is one row of the tables of saving and loading; why says what depends on
// its place.
type step struct {
	what string
	why  string
	do   func(*transfer) error
}

// transfer is a state on its way between KVM and a section.
type transfer struct {
	v    *VCPU
	cpu  *kvm.VCPU
	s    *stateV1
	msrs []uint32 // to be saved
	opts LoadOptions
}

// saveSteps is the order of saving. The vCPU is parked, its last exit is
// complete (Park).
var saveSteps = []step{
	{"MP state", "reading it makes KVM accept a pending INIT or SIPI, which changes registers and local APIC", (*transfer).saveMPState},
	{"CPUID", "fixed since the first run: what the guest was told, for KVM_GET_CPUID2 adds what the guest has switched on", (*transfer).saveCPUID},
	{"registers", "after the MP state", (*transfer).saveRegs},
	{"special registers", "after the MP state", (*transfer).saveSregs},
	{"XSAVE area", "its place does not matter", (*transfer).saveXSave},
	{"XCRs", "its place does not matter", (*transfer).saveXCRs},
	{"debug registers", "its place does not matter", (*transfer).saveDebug},
	{"local APIC", "reading it moves posted interrupts into the IRR; before the deadline, which is zeroed when it has fired", (*transfer).saveLAPIC},
	{"TSC", "frequency and offset; they do not move", (*transfer).saveTSC},
	{"MSRs", "after the local APIC: it holds the TSC deadline", (*transfer).saveMSRs},
	{"events", "last: what comes before may turn an event that was on its way into a pending one", (*transfer).saveEvents},
}

// Save returns the vCPU's state. Preconditions: it is parked. msrs are those of
// kvm.System.MSRIndexList; those the vCPU does not have are left out. Errors wrap
// ErrNested or ErrStopped, or name what KVM would not tell.
func (v *VCPU) Save(msrs []uint32) (any, error) {
	s := &stateV1{}
	err := v.Do(func(c *kvm.VCPU) error {
		t := &transfer{v: v, cpu: c, s: s, msrs: msrs}
		return t.run(saveSteps)
	})
	return s, err
}

func (t *transfer) run(steps []step) error {
	for _, st := range steps {
		if err := st.do(t); err != nil {
			return fmt.Errorf("vCPU %d: %s: %w", t.cpu.ID(), st.what, err)
		}
	}
	return nil
}

func (t *transfer) saveMPState() (err error) { t.s.MPState, err = t.cpu.MPState(); return err }
func (t *transfer) saveCPUID() (err error)   { t.s.CPUID = t.v.told; return nil }
func (t *transfer) saveRegs() (err error)    { t.s.Regs, err = t.cpu.Regs(); return err }
func (t *transfer) saveXSave() (err error)   { t.s.XSave, err = t.cpu.XSave(); return err }
func (t *transfer) saveDebug() (err error)   { t.s.Debug, err = t.cpu.DebugRegs(); return err }
func (t *transfer) saveEvents() (err error)  { t.s.Events, err = t.cpu.VCPUEvents(); return err }

// saveSregs prefers the form that has the PDPTRs, which are not in the guest's
// memory while it runs.
func (t *transfer) saveSregs() error {
	var efer, cr4 uint64
	s2, err := t.cpu.Sregs2()
	switch {
	case err == nil:
		t.s.Sregs2, efer, cr4 = &s2, s2.EFER, s2.CR4
	case errors.Is(err, kvm.ErrNotSupported):
		s, err := t.cpu.Sregs()
		if err != nil {
			return err
		}
		t.s.Sregs, efer, cr4 = &s, s.EFER, s.CR4
	default:
		return err
	}
	if efer&eferSVME != 0 || cr4&cr4VMXE != 0 {
		return fmt.Errorf("%w: what its guests are doing cannot be saved; stop them, or unload kvm in the guest", ErrNested)
	}
	return nil
}

func (t *transfer) saveXCRs() error {
	x, err := t.cpu.XCRs()
	if errors.Is(err, kvm.ErrNotSupported) {
		return nil
	}
	if err == nil {
		t.s.XCRs = slices.Clone(x.XCRs[:min(int(x.NrXCRs), len(x.XCRs))])
	}
	return err
}

func (t *transfer) saveLAPIC() error {
	l, err := t.cpu.LAPIC()
	t.s.LAPIC = l.Regs[:]
	return err
}

func (t *transfer) saveTSC() error {
	t.s.TSCKHz, _ = t.cpu.TSCKHz() // EIO: the host's TSC is unstable
	if !t.cpu.HasTSCOffset() {
		return nil
	}
	off, err := t.cpu.TSCOffset()
	t.s.TSCOff = &off
	return err
}

func (t *transfer) saveMSRs() error {
	listed, err := readMSRs(t.cpu, t.msrs)
	if err != nil {
		return err
	}
	t.s.MSRs = listed
	missing := slices.DeleteFunc(extraMSRs(), func(i uint32) bool { return slices.Contains(t.msrs, i) })
	extra, err := readMSRs(t.cpu, missing)
	for _, m := range extra {
		if m.Data != 0 {
			t.s.MSRs = append(t.s.MSRs, m)
		}
	}
	return err
}

// readMSRs reads those that the vCPU has.
func readMSRs(c *kvm.VCPU, list []uint32) ([]msr, error) {
	entries := make([]kvm.MSREntry, len(list))
	for i, n := range list {
		entries[i].Index = n
	}
	out := make([]msr, 0, len(list))
	for rest := entries; len(rest) > 0; {
		done, err := c.MSRs(rest)
		for _, e := range rest[:done] {
			out = append(out, msr{e.Index, e.Data})
		}
		if _, refused := errors.AsType[*kvm.MSRError](err); refused {
			done++ // the list is the host's, not this guest's
		} else if err != nil {
			return nil, err
		}
		rest = rest[done:]
	}
	return out, nil
}

// HostTSC is what the host's TSC reads, as a guest's TSC and its offset tell.
// ok is false on hosts without offsets. It runs on the vCPU's thread (Do).
func HostTSC(c *kvm.VCPU) (tsc uint64, ok bool, err error) {
	if !c.HasTSCOffset() {
		return 0, false, nil
	}
	off, err := c.TSCOffset()
	if err != nil {
		return 0, false, err
	}
	guest := []kvm.MSREntry{{Index: kvm.MSRTSC}}
	_, err = c.MSRs(guest)
	return guest[0].Data - off, err == nil, err
}
