package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hvctl/hvctl/internal/gdbstub"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/vcpu/paging"
)

// ErrDebugged is wrapped when a debugger is attached and what is asked for
// cannot be beside it.
var ErrDebugged = errors.New("a debugger is attached")

// Debugger is a gdbstub.Target: it has the machine's vCPUs until Detach. While
// it holds them Resume of the machine does not let them run. Methods are called
// one at a time.
type Debugger struct {
	m     *Machine
	stops chan gdbstub.Stop

	mu     sync.Mutex // guards what follows, for the vCPUs' threads look at it
	soft   []softBreak
	hard   [4]*gdbstub.Break // by debug register
	step   []bool
	blocks bool // KVM can hold interrupts back while it steps
	gone   bool // Detach was called

	probed, seen bool // whether KVM stops at INT3

	freed chan struct{} // of a guest that has crashed: closed when it may end; m.mu guards it
}

var _ gdbstub.Target = (*Debugger)(nil)

// Debug attaches a debugger; every vCPU stands still when it returns. Devices
// go on. It may be called before Run. The error wraps ErrDebugged when there is
// a debugger already, or ErrEnded.
func (m *Machine) Debug() (*Debugger, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed || m.ended.Load():
		return nil, ErrEnded
	case m.debugger.Load() != nil:
		return nil, ErrDebugged
	}
	if err := m.vm.Require(kvm.CapSetGuestDebug); err != nil {
		return nil, err
	}
	d := &Debugger{
		m: m, stops: make(chan gdbstub.Stop, len(m.cpus)+2), step: make([]bool, len(m.cpus)),
	}
	const blockIRQ = kvm.GuestDebugBlockIRQ
	if flags, err := m.vm.CheckExtension(kvm.CapSetGuestDebug2); err == nil {
		d.blocks = flags&blockIRQ != 0
	}
	m.debugger.Store(d)
	m.held = true
	if err := m.parkCPUs(); err != nil {
		m.debugger.Store(nil)
		m.held = false
		return nil, m.orEnded(err)
	}
	return d, nil
}

// CPUs implements gdbstub.Target.
func (d *Debugger) CPUs() int { return len(d.m.cpus) }

// Stops implements gdbstub.Target.
func (d *Debugger) Stops() <-chan gdbstub.Stop { return d.stops }

// Halt implements gdbstub.Target.
func (d *Debugger) Halt() error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if d.m.closed || d.m.ended.Load() {
		return ErrEnded
	}
	d.m.held = true
	return d.m.orEnded(d.m.parkCPUs())
}

// Resume implements gdbstub.Target. A machine that is paused is only marked: its
// vCPUs run when it is resumed.
func (d *Debugger) Resume(run, step []bool) error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if d.m.closed || d.m.ended.Load() {
		return ErrEnded
	}
	if d.unheard() {
		return nil // it stands still for that
	}
	if d.release() {
		return nil
	}
	d.mu.Lock()
	copy(d.step, step)
	d.mu.Unlock()
	for i := range d.m.cpus {
		if err := d.arm(i); err != nil {
			return d.m.orEnded(err)
		}
	}
	d.m.held, d.m.only = false, append([]bool(nil), run...)
	if !d.m.entered || d.m.paused.Load() {
		return nil
	}
	d.m.forgivePause()
	return d.m.orEnded(d.m.resumeCPUs())
}

// unheard drops the stops that nobody has heard of, of vCPUs that stopped while
// another one's was being told. An instruction that was replaced is met again;
// a watchpoint is not, and so stays to be told.
func (d *Debugger) unheard() (kept bool) {
	var keep []gdbstub.Stop
	for {
		select {
		case s := <-d.stops:
			if s.Ended || s.Signal == gdbstub.SigAbrt || s.Break != nil && s.Break.Kind != gdbstub.SoftBreak {
				keep = append(keep, s)
			}
			continue
		default:
		}
		for _, s := range keep {
			d.tell(s)
		}
		return len(keep) > 0
	}
}

// Detach implements gdbstub.Target. The error says that the machine has ended,
// or would not go on.
func (d *Debugger) Detach() error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	d.mu.Lock()
	gone := d.gone
	d.gone = true
	d.mu.Unlock()
	if gone {
		return nil
	}
	defer d.m.debugger.CompareAndSwap(d, nil)
	d.m.held, d.m.only = false, nil
	if d.release() || d.m.closed || d.m.ended.Load() {
		return nil
	}
	errs := []error{d.m.parkCPUs()}
	d.mu.Lock()
	for _, b := range d.soft {
		errs = append(errs, d.lift(b))
	}
	d.soft, d.hard = nil, [4]*gdbstub.Break{}
	clear(d.step)
	d.mu.Unlock()
	for _, c := range d.m.cpus {
		errs = append(errs, c.Do(func(c *kvm.VCPU) error { return c.SetGuestDebug(&kvm.GuestDebug{}) }))
	}
	if d.m.entered && !d.m.paused.Load() {
		d.m.forgivePause()
		errs = append(errs, d.m.resumeCPUs())
	}
	if err := errors.Join(errs...); !errors.Is(d.m.orEnded(err), ErrEnded) {
		return err
	}
	return nil
}

// release lets a machine that has crashed go on to its end, and tells whether it
// has crashed.
func (d *Debugger) release() bool {
	if d.freed == nil {
		return false
	}
	select {
	case <-d.freed:
	default:
		close(d.freed)
	}
	return true
}

// crashed shows a guest that has crashed to its debugger, and returns when that
// lets it go.
func (d *Debugger) crashed(ctx context.Context, cpu int) {
	d.m.mu.Lock()
	d.freed = make(chan struct{})
	d.m.held = true
	err := d.m.parkCPUs()
	freed := d.freed
	d.m.mu.Unlock()
	if err != nil {
		return
	}
	d.tell(gdbstub.Stop{CPU: cpu, Signal: gdbstub.SigAbrt})
	select {
	case <-freed:
	case <-ctx.Done():
	}
}

// tell passes a stop on; each vCPU has one at most that was not heard.
func (d *Debugger) tell(s gdbstub.Stop) {
	select {
	case d.stops <- s:
	default:
	}
}

// Regs implements gdbstub.Target.
func (d *Debugger) Regs(cpu int) (r gdbstub.Regs, err error) {
	err = d.m.cpus[cpu].Do(func(c *kvm.VCPU) (err error) { r, err = debugRegs(c); return err })
	return r, err
}

// SetRegs implements gdbstub.Target.
func (d *Debugger) SetRegs(cpu int, r gdbstub.Regs) error {
	return d.m.cpus[cpu].Do(func(c *kvm.VCPU) error { return setDebugRegs(c, &r) })
}

// mode returns how a vCPU sees memory.
func (m *Machine) mode(cpu int) (mode paging.Mode, err error) {
	err = m.cpus[cpu].Do(func(c *kvm.VCPU) error {
		s, err := c.Sregs()
		mode = paging.Mode{CR0: s.CR0, CR3: s.CR3, CR4: s.CR4, EFER: s.EFER}
		return err
	})
	return mode, err
}

// parkCPUs stops every vCPU.
func (m *Machine) parkCPUs() error {
	for _, c := range m.cpus {
		if err := c.Park(); err != nil {
			return fmt.Errorf("vCPU %d: %w", c.Index(), err)
		}
	}
	return nil
}
