package machine

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/gdbstub"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/memory"
)

// maxSoftBreaks bounds the list that every INT3 of the guest is looked up in.
const maxSoftBreaks = 1024

// int3 is the instruction that a software breakpoint is made of.
const int3 = 0xcc

// softBreak is an instruction that was replaced. It is found again by where it
// is in RAM, for the tables that mapped it may have changed.
type softBreak struct {
	addr uint64
	gpa  memory.GPA
	was  byte
}

// Exceptions of debug exits, and bits of debug registers (SDM vol. 3B, 18.2).
const (
	exceptionDB = 1
	exceptionBP = 3
	dr6Step     = 1 << 14
	dr6Hits     = 0xf
	dr6Known    = dr6Step | 1<<13 | dr6Hits
)

// SetBreak implements gdbstub.Target. Where KVM does not see INT3, software
// breakpoints are made of hardware's, as far as those go.
func (d *Debugger) SetBreak(cpu int, b gdbstub.Break) error {
	if b.Kind == gdbstub.SoftBreak {
		if !d.probed {
			seen, err := breaksSeen(d.m.sys)
			if err != nil {
				return fmt.Errorf("a trial of software breakpoints: %w", err)
			}
			d.probed, d.seen = true, seen
		}
		if d.seen {
			return d.setSoft(cpu, b.Addr)
		}
		b.Size = 0 // gdb's word for the kind of instruction
	}
	if _, err := watchBits(b); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, h := range d.hard {
		if h != nil && *h == b {
			return nil
		}
		if h == nil {
			d.hard[i] = &b
			return nil
		}
	}
	return fmt.Errorf("%d hardware breakpoints: %w", len(d.hard), gdbstub.ErrFull)
}

func (d *Debugger) setSoft(cpu int, addr uint64) error {
	mode, err := d.m.mode(cpu)
	if err != nil {
		return err
	}
	gpa, err := d.m.translate(mode, addr)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.soft {
		if s.gpa == gpa {
			return nil
		}
	}
	if len(d.soft) == maxSoftBreaks {
		return fmt.Errorf("%d software breakpoints: %w", maxSoftBreaks, gdbstub.ErrFull)
	}
	was := []byte{0}
	if err := d.m.mem.ReadAt(was, gpa); err != nil {
		return err
	}
	if err := d.m.mem.WriteAt([]byte{int3}, gpa); err != nil {
		return err
	}
	d.soft = append(d.soft, softBreak{addr, gpa, was[0]})
	return nil
}

// ClearBreak implements gdbstub.Target.
func (d *Debugger) ClearBreak(b gdbstub.Break) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.Kind == gdbstub.SoftBreak {
		b.Size = 0
	}
	for i, h := range d.hard {
		if h != nil && *h == b {
			d.hard[i] = nil
			return nil
		}
	}
	if b.Kind != gdbstub.SoftBreak {
		return nil
	}
	for i, s := range d.soft {
		if s.addr == b.Addr {
			d.soft = append(d.soft[:i], d.soft[i+1:]...)
			return d.lift(s)
		}
	}
	return nil
}

// lift puts an instruction back, unless the guest has put something else there.
func (d *Debugger) lift(s softBreak) error {
	now := []byte{0}
	if err := d.m.mem.ReadAt(now, s.gpa); err != nil || now[0] != int3 {
		return err
	}
	return d.m.mem.WriteAt([]byte{s.was}, s.gpa)
}

// hide puts what breakpoints have replaced into p, which was read at gpa.
func (d *Debugger) hide(gpa memory.GPA, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.soft {
		if s.gpa >= gpa && uint64(s.gpa-gpa) < uint64(len(p)) && p[s.gpa-gpa] == int3 {
			p[s.gpa-gpa] = s.was
		}
	}
}

// keep returns p as it may be written at gpa: breakpoints stay.
func (d *Debugger) keep(gpa memory.GPA, p []byte) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := p
	for i := range d.soft {
		s := &d.soft[i]
		if s.gpa < gpa || uint64(s.gpa-gpa) >= uint64(len(p)) {
			continue
		}
		if &out[0] == &p[0] {
			out = append([]byte(nil), p...)
		}
		s.was, out[s.gpa-gpa] = p[s.gpa-gpa], int3
	}
	return out
}

// watchBits is the condition and length of a debug register in DR7, at its
// lowest place.
func watchBits(b gdbstub.Break) (uint64, error) {
	length, ok := map[uint64]uint64{1: 0, 2: 1, 4: 3, 8: 2}[b.Size]
	switch {
	case b.Kind == gdbstub.HardBreak || b.Kind == gdbstub.SoftBreak:
		return 0, nil
	case b.Kind != gdbstub.WriteWatch && b.Kind != gdbstub.AccessWatch:
		return 0, fmt.Errorf("a watchpoint for reads alone: %w", gdbstub.ErrUnsupported)
	case !ok || b.Addr%b.Size != 0:
		return 0, fmt.Errorf("a watchpoint of %d bytes at %#x: %w", b.Size, b.Addr, gdbstub.ErrUnsupported)
	case b.Kind == gdbstub.WriteWatch:
		return 1 | length<<2, nil
	default:
		return 3 | length<<2, nil
	}
}

// control is what KVM is told for a vCPU.
func (d *Debugger) control(cpu int) kvm.GuestDebug {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := kvm.GuestDebug{}
	if len(d.soft) > 0 {
		g.Control |= kvm.GuestDebugUseSWBP
	}
	for i, h := range d.hard {
		if h == nil {
			continue
		}
		bits, _ := watchBits(*h) // SetBreak has judged it
		g.Control |= kvm.GuestDebugUseHWBP
		g.DebugReg[i] = h.Addr
		g.DebugReg[7] |= 2<<(2*i) | bits<<(16+4*i) | 1<<10
	}
	if d.step[cpu] {
		g.Control |= kvm.GuestDebugSingleStep
		if d.blocks {
			g.Control |= kvm.GuestDebugBlockIRQ
		}
	}
	if g.Control != 0 {
		g.Control |= kvm.GuestDebugEnable
	}
	return g
}

// arm tells KVM what makes a vCPU stop.
func (d *Debugger) arm(cpu int) error {
	g := d.control(cpu)
	return d.m.cpus[cpu].Do(func(c *kvm.VCPU) error { return c.SetGuestDebug(&g) })
}

// debugExit judges a debug exit on the vCPU's thread.
func (m *Machine) debugExit(c *kvm.VCPU, e kvm.DebugExit) (stop bool) {
	d := m.debugger.Load()
	if d == nil { // it has just gone, and is about to let the vCPU run on
		return true
	}
	b, ours := d.met(c.ID(), e)
	if ours {
		d.tell(gdbstub.Stop{CPU: c.ID(), Signal: gdbstub.SigTrap, Break: b})
		return true
	}
	if err := d.giveBack(c, e); err != nil {
		m.cfg.Log.Warn("gdb: an exception of the guest's own was lost", "vcpu", c.ID(), "pc", fmt.Sprintf("%#x", e.PC), "err", err)
	}
	return false
}

// met tells whether a debug exit is the debugger's, and which breakpoint it was.
func (d *Debugger) met(cpu int, e kvm.DebugExit) (b *gdbstub.Break, ours bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e.Exception == exceptionBP {
		for _, s := range d.soft {
			if s.addr == e.PC {
				return &gdbstub.Break{Kind: gdbstub.SoftBreak, Addr: s.addr}, true
			}
		}
		return nil, false
	}
	for i, h := range d.hard {
		if h != nil && e.DR6>>i&1 != 0 {
			return h, true
		}
	}
	return nil, d.step[cpu]
}

// giveBack lets the guest have an exception that it has caused itself.
func (d *Debugger) giveBack(c *kvm.VCPU, e kvm.DebugExit) error {
	g := d.control(c.ID())
	g.Control |= kvm.GuestDebugEnable
	if e.Exception == exceptionBP {
		g.Control |= kvm.GuestDebugInjectBP
		return c.SetGuestDebug(&g)
	}
	regs, err := c.DebugRegs()
	if err != nil {
		return err
	}
	regs.DR6 = regs.DR6&^dr6Hits | e.DR6&dr6Known
	if err := c.SetDebugRegs(&regs); err != nil {
		return err
	}
	g.Control |= kvm.GuestDebugInjectDB
	return c.SetGuestDebug(&g)
}
