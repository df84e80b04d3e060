package vcpu

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/kvm"
)

// LoadOptions say how a saved vCPU is put on this host.
type LoadOptions struct {
	// Admit judges the CPUID that the guest knows; nil admits any that KVM
	// takes.
	Admit func(*kvm.VCPU, []kvm.CPUIDEntry) error
	// TSCShift is added to the saved offset from the host's TSC, for a host
	// whose TSC reads something else now. Ignored where either side has no
	// offsets.
	TSCShift uint64
	// TSCElapsed is added to the saved TSC where offsets are not to be had.
	TSCElapsed uint64
	// Note is told of what was not restored and does no harm; nil is fine.
	Note func(msg string, args ...any)
}

// loadSteps is the order of loading, which is not that of saving reversed. The
// vCPU is new: it has never run.
var loadSteps = []step{
	{"CPUID", "first: KVM judges XCRs, special registers and MSRs by it, and it is fixed once the vCPU has run", (*transfer).loadCPUID},
	{"MP state", "before registers: setting it resets none of them, but a SIPI state would", (*transfer).loadMPState},
	{"registers", "setting them drops pending exceptions: before the events", (*transfer).loadRegs},
	{"XCRs", "before the XSAVE area, whose components they switch on", (*transfer).loadXCRs},
	{"special registers", "they set the APIC base: before the local APIC", (*transfer).loadSregs},
	{"XSAVE area", "after XCRs and CPUID, which say what may be in it", (*transfer).loadXSave},
	{"debug registers", "its place does not matter", (*transfer).loadDebug},
	{"local APIC", "before the MSRs: a TSC deadline is dropped while the timer is not in that mode", (*transfer).loadLAPIC},
	{"TSC", "before the MSRs: a deadline is a time on it", (*transfer).loadTSC},
	{"MSRs", "after local APIC and TSC; the deadline is the last one", (*transfer).loadMSRs},
	{"events", "last: everything before can drop what is pending", (*transfer).loadEvents},
}

// Load puts a new, parked vCPU in the state of a section. What the section says
// is hostile: sizes are checked here, values by KVM. Errors wrap ErrState or
// state.ErrCorrupt; the vCPU is then to be stopped, not run.
func (v *VCPU) Load(d state.Decoder, o LoadOptions) error {
	s, err := decode(d)
	if err != nil {
		return err
	}
	if o.Note == nil {
		o.Note = func(string, ...any) {}
	}
	err = v.Do(func(c *kvm.VCPU) error {
		t := &transfer{v: v, cpu: c, s: s, opts: o}
		return t.run(loadSteps)
	})
	if err != nil && !errors.Is(err, ErrStopped) {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	return err
}

// decode reads a section and checks what KVM does not.
func decode(d state.Decoder) (*stateV1, error) {
	s := &stateV1{}
	if err := d.Into(s); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	return s, nil
}

func (s *stateV1) check() error {
	switch {
	case len(s.CPUID) == 0 || len(s.CPUID) > maxCPUID:
		return fmt.Errorf("%d CPUID entries", len(s.CPUID))
	case (s.Sregs == nil) == (s.Sregs2 == nil):
		return errors.New("want special registers in one of two forms")
	case len(s.XSave) > maxXSave:
		return fmt.Errorf("XSAVE area of %d bytes", len(s.XSave))
	case len(s.XCRs) > maxXCRs:
		return fmt.Errorf("%d extended control registers", len(s.XCRs))
	case len(s.LAPIC) != len(kvm.LAPICState{}.Regs):
		return fmt.Errorf("local APIC of %d bytes", len(s.LAPIC))
	case len(s.MSRs) > maxMSRs:
		return fmt.Errorf("%d MSRs", len(s.MSRs))
	}
	return nil
}

func (t *transfer) loadCPUID() error {
	if t.opts.Admit != nil {
		if err := t.opts.Admit(t.cpu, t.s.CPUID); err != nil {
			return err
		}
	}
	return t.v.tell(t.s.CPUID)
}

func (t *transfer) loadMPState() error { return t.cpu.SetMPState(t.s.MPState) }
func (t *transfer) loadRegs() error    { return t.cpu.SetRegs(&t.s.Regs) }
func (t *transfer) loadXSave() error   { return t.cpu.SetXSave(t.s.XSave) }
func (t *transfer) loadDebug() error   { return t.cpu.SetDebugRegs(&t.s.Debug) }
func (t *transfer) loadEvents() error  { return t.cpu.SetVCPUEvents(&t.s.Events) }

// loadSregs takes either form: a host that has no SREGS2 lacks only the PDPTRs.
func (t *transfer) loadSregs() error {
	if t.s.Sregs != nil {
		return t.cpu.SetSregs(t.s.Sregs)
	}
	return t.cpu.SetSregs2(t.s.Sregs2)
}

func (t *transfer) loadXCRs() error {
	if len(t.s.XCRs) == 0 {
		return nil
	}
	x := kvm.XCRs{NrXCRs: uint32(len(t.s.XCRs))}
	copy(x.XCRs[:], t.s.XCRs)
	return t.cpu.SetXCRs(&x)
}

func (t *transfer) loadLAPIC() error {
	var l kvm.LAPICState
	copy(l.Regs[:], t.s.LAPIC)
	return t.cpu.SetLAPIC(&l)
}

// tscTolerance is how far, in millionths, two hosts' TSC frequencies may be
// apart: what KVM itself and NTP take for the same.
const tscTolerance = 250

// loadTSC makes the guest's TSC go on from where it was. Offsets keep the TSCs
// of several vCPUs exactly as far apart as they were.
func (t *transfer) loadTSC() error {
	here, err := t.cpu.TSCKHz()
	if saved := t.s.TSCKHz; err == nil && saved != 0 {
		if d := int64(here) - int64(saved); max(d, -d)*1e6 > tscTolerance*int64(saved) {
			return fmt.Errorf("the guest's TSC counts %d kHz, this host's %d kHz, and it cannot be scaled", saved, here)
		}
	}
	if t.s.TSCOff != nil && t.cpu.HasTSCOffset() {
		err := t.cpu.SetTSCOffset(*t.s.TSCOff + t.opts.TSCShift)
		if err == nil {
			t.s.MSRs = slices.DeleteFunc(t.s.MSRs, func(m msr) bool { return m.Index == kvm.MSRTSC })
			return nil
		}
		if !errors.Is(err, kvm.ErrNotSupported) {
			return err
		}
		t.opts.Note("this host does not let a guest's TSC be set; it jumps", "vcpu", t.cpu.ID(), "err", err)
	}
	for i := range t.s.MSRs {
		if t.s.MSRs[i].Index == kvm.MSRTSC {
			t.s.MSRs[i].Data += t.opts.TSCElapsed
		}
	}
	return nil
}

// loadMSRs sets all MSRs, the deadline last. One that KVM refuses and that has
// the saved value anyway, as some read-only ones have, is no error.
func (t *transfer) loadMSRs() error {
	list := make([]kvm.MSREntry, 0, len(t.s.MSRs)+1)
	var deadline *uint64
	for _, m := range t.s.MSRs {
		if m.Index == kvm.MSRTSCDeadline {
			deadline = &m.Data
			continue
		}
		list = append(list, kvm.MSREntry{Index: m.Index, Data: m.Data})
	}
	if deadline != nil {
		v, err := t.deadline(*deadline)
		if err != nil {
			return err
		}
		list = append(list, kvm.MSREntry{Index: kvm.MSRTSCDeadline, Data: v})
	}
	for rest := list; len(rest) > 0; {
		done, err := t.cpu.SetMSRs(rest)
		if _, refused := errors.AsType[*kvm.MSRError](err); refused {
			if err := t.refused(rest[done], err); err != nil {
				return err
			}
			done++
		} else if err != nil {
			return err
		}
		rest = rest[done:]
	}
	return nil
}

// refused decides on an MSR that KVM does not take.
func (t *transfer) refused(m kvm.MSREntry, why error) error {
	now := []kvm.MSREntry{{Index: m.Index}}
	if _, err := t.cpu.MSRs(now); err == nil && now[0].Data == m.Data {
		return nil
	}
	if m.Data == 0 {
		// A feature that this host does not offer, and the guest does not use.
		t.opts.Note("an MSR that is zero was not restored", "vcpu", t.cpu.ID(), "msr", kvm.MSRName(m.Index), "err", why)
		return nil
	}
	return why
}

// deadline is what to arm the timer with. A deadline that has passed reads as
// zero, whether or not its interrupt was seen; a tick too many is harmless, and
// one too few lets a guest that idles without ticks sleep for ever.
func (t *transfer) deadline(saved uint64) (uint64, error) {
	var l kvm.LAPICState
	copy(l.Regs[:], t.s.LAPIC)
	lvt := l.Reg(kvm.LAPICLVTTimer)
	if saved != 0 || lvt&timerModeMask != timerDeadline || lvt&lvtMasked != 0 {
		return saved, nil
	}
	tsc := []kvm.MSREntry{{Index: kvm.MSRTSC}}
	_, err := t.cpu.MSRs(tsc)
	return tsc[0].Data, err
}
