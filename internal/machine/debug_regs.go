package machine

import (
	"github.com/hvctl/hvctl/internal/gdbstub"
	"github.com/hvctl/hvctl/kvm"
)

// debugRegs reads a vCPU's registers for a debugger. It runs on its thread.
func debugRegs(c *kvm.VCPU) (r gdbstub.Regs, err error) {
	k, err := c.Regs()
	if err != nil {
		return r, err
	}
	s, err := c.Sregs()
	if err != nil {
		return r, err
	}
	r.GP = [16]uint64{k.RAX, k.RBX, k.RCX, k.RDX, k.RSI, k.RDI, k.RBP, k.RSP, k.R8, k.R9, k.R10, k.R11, k.R12, k.R13, k.R14, k.R15}
	r.RIP, r.RFLAGS = k.RIP, uint32(k.RFLAGS)
	for i, seg := range segments(&s) {
		r.Seg[i] = uint32(seg.Selector)
	}
	r.FSBase, r.GSBase = s.FS.Base, s.GS.Base
	r.CR0, r.CR2, r.CR3, r.CR4, r.CR8, r.EFER = s.CR0, s.CR2, s.CR3, s.CR4, s.CR8, s.EFER
	m := []kvm.MSREntry{{Index: kvm.MSRKernelGSBase}}
	if n, err := c.MSRs(m); err == nil && n == 1 {
		r.KernelGS = m[0].Data
	}
	f, err := c.FPU()
	if err != nil {
		return r, err
	}
	for i := range r.ST {
		copy(r.ST[i][:], f.FPR[i][:])
	}
	r.FPU = [8]uint32{uint32(f.FCW), uint32(f.FSW), fullTag(f.FTWX), 0, uint32(f.LastIP), 0, uint32(f.LastDP), uint32(f.LastOpcode)}
	r.XMM, r.MXCSR = f.XMM, f.MXCSR
	return r, nil
}

// segments are in the debugger's order.
func segments(s *kvm.Sregs) [6]*kvm.Segment {
	return [6]*kvm.Segment{&s.CS, &s.SS, &s.DS, &s.ES, &s.FS, &s.GS}
}

// fullTag is the x87 tag word with two bits for each register, 3 for an empty
// one, out of FXSAVE's.
func fullTag(short uint8) (full uint32) {
	for i := range 8 {
		if short>>i&1 == 0 {
			full |= 3 << (2 * i)
		}
	}
	return full
}

// shortTag is the inverse.
func shortTag(full uint32) (short uint8) {
	for i := range 8 {
		if full>>(2*i)&3 != 3 {
			short |= 1 << i
		}
	}
	return short
}

// setDebugRegs writes what a debugger has changed: KVM is asked only for the
// groups that differ, for it judges some of them as a whole. Selectors cannot be
// changed, since a debugger says nothing of what is behind them.
func setDebugRegs(c *kvm.VCPU, want *gdbstub.Regs) error {
	is, err := debugRegs(c)
	if err != nil {
		return err
	}
	if is.GP != want.GP || is.RIP != want.RIP || is.RFLAGS != want.RFLAGS {
		g := want.GP
		if err := c.SetRegs(&kvm.Regs{
			RAX: g[0], RBX: g[1], RCX: g[2], RDX: g[3], RSI: g[4], RDI: g[5], RBP: g[6], RSP: g[7],
			R8: g[8], R9: g[9], R10: g[10], R11: g[11], R12: g[12], R13: g[13], R14: g[14], R15: g[15],
			RIP: want.RIP, RFLAGS: uint64(want.RFLAGS),
		}); err != nil {
			return err
		}
	}
	if err := setSystem(c, &is, want); err != nil {
		return err
	}
	if is.ST == want.ST && is.FPU == want.FPU && is.XMM == want.XMM && is.MXCSR == want.MXCSR {
		return nil
	}
	f, err := c.FPU()
	if err != nil {
		return err
	}
	for i := range want.ST {
		copy(f.FPR[i][:], want.ST[i][:])
	}
	f.FCW, f.FSW, f.FTWX = uint16(want.FPU[0]), uint16(want.FPU[1]), shortTag(want.FPU[2])
	f.XMM, f.MXCSR = want.XMM, want.MXCSR
	return c.SetFPU(&f)
}

// setSystem writes the control registers and bases that differ.
func setSystem(c *kvm.VCPU, is, want *gdbstub.Regs) error {
	if is.KernelGS != want.KernelGS {
		if _, err := c.SetMSRs([]kvm.MSREntry{{Index: kvm.MSRKernelGSBase, Data: want.KernelGS}}); err != nil {
			return err
		}
	}
	type group struct{ fs, gs, cr0, cr2, cr3, cr4, cr8, efer uint64 }
	of := func(r *gdbstub.Regs) group {
		return group{r.FSBase, r.GSBase, r.CR0, r.CR2, r.CR3, r.CR4, r.CR8, r.EFER}
	}
	if of(is) == of(want) {
		return nil
	}
	s, err := c.Sregs()
	if err != nil {
		return err
	}
	s.FS.Base, s.GS.Base = want.FSBase, want.GSBase
	s.CR0, s.CR2, s.CR3, s.CR4, s.CR8, s.EFER = want.CR0, want.CR2, want.CR3, want.CR4, want.CR8, want.EFER
	return c.SetSregs(&s)
}
