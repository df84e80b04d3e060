package kvm

import (
	"slices"
	"testing"

	gokvm "github.com/bobuhiro11/gokvm/kvm"
)

// The tests here compare what this package reads and writes with an
// independent implementation, for the calls that one gets right.

// same compares two structs of different types by their values in order.
func same(t *testing.T, what string, ours, theirs []uint64) {
	t.Helper()
	if !slices.Equal(ours, theirs) {
		t.Errorf("%s: we say %#x, gokvm says %#x", what, ours, theirs)
	}
}

func TestRegsAgainstGokvm(t *testing.T) {
	g := newGuest(t, guestOptions{})
	n := uintptr(g.vcpu.fd.n)
	theirs := gokvm.Regs{RAX: 1, RBX: 2, RCX: 3, RDX: 4, RSI: 5, RDI: 6, RSP: 7, RBP: 8, R8: 9, R9: 10, R10: 11, R11: 12, R12: 13, R13: 14, R14: 15, R15: 16, RIP: 17, RFLAGS: 2}
	g.ok(gokvm.SetRegs(n, &theirs))
	ours, err := g.vcpu.Regs()
	g.ok(err)
	if ours != Regs(theirs) {
		t.Errorf("gokvm set %+v, we read %+v", theirs, ours)
	}
	ours.R15 = 99
	g.ok(g.vcpu.SetRegs(&ours))
	back, err := gokvm.GetRegs(n)
	g.ok(err)
	if Regs(*back) != ours {
		t.Errorf("we set %+v, gokvm reads %+v", ours, back)
	}
}

func TestSregsAgainstGokvm(t *testing.T) {
	g := newGuest(t, guestOptions{memory: 1 << 20})
	g.userMode()
	ours, err := g.vcpu.Sregs()
	g.ok(err)
	theirs, err := gokvm.GetSregs(uintptr(g.vcpu.fd.n))
	g.ok(err)
	same(t, "control registers",
		[]uint64{ours.CR0, ours.CR2, ours.CR3, ours.CR4, ours.CR8, ours.EFER, ours.APICBase},
		[]uint64{theirs.CR0, theirs.CR2, theirs.CR3, theirs.CR4, theirs.CR8, theirs.EFER, theirs.ApicBase})
	for name, p := range map[string]struct {
		ours   Segment
		theirs gokvm.Segment
	}{"CS": {ours.CS, theirs.CS}, "DS": {ours.DS, theirs.DS}, "SS": {ours.SS, theirs.SS}, "TR": {ours.TR, theirs.TR}} {
		same(t, name,
			[]uint64{p.ours.Base, uint64(p.ours.Limit), uint64(p.ours.Selector), uint64(p.ours.Type), uint64(p.ours.DPL), uint64(p.ours.L), uint64(p.ours.G)},
			[]uint64{p.theirs.Base, uint64(p.theirs.Limit), uint64(p.theirs.Selector), uint64(p.theirs.Typ), uint64(p.theirs.DPL), uint64(p.theirs.L), uint64(p.theirs.G)})
	}
	theirs.CR2 = 0xabc000
	g.ok(gokvm.SetSregs(uintptr(g.vcpu.fd.n), theirs))
	if again, err := g.vcpu.Sregs(); err != nil || again.CR2 != 0xabc000 {
		t.Errorf("gokvm set CR2 to 0xabc000, we read %#x, %v", again.CR2, err)
	}
}

func TestCPUIDAgainstGokvm(t *testing.T) {
	g := newGuest(t, guestOptions{})
	ours, err := g.sys.SupportedCPUID()
	g.ok(err)
	theirs := gokvm.CPUID{Nent: 256, Entries: make([]gokvm.CPUIDEntry2, 256)}
	g.ok(gokvm.GetSupportedCPUID(uintptr(g.sys.fd.n), &theirs))
	if int(theirs.Nent) != len(ours) {
		t.Fatalf("%d entries, gokvm has %d", len(ours), theirs.Nent)
	}
	for i, o := range ours {
		e := theirs.Entries[i]
		// These tell which host CPU the call ran on.
		if slices.Contains([]uint32{1, 0xb, 0x1f, 0x8000001e}, o.Function) {
			continue
		}
		same(t, "CPUID",
			[]uint64{uint64(o.Function), uint64(o.Index), uint64(o.Flags), uint64(o.EAX), uint64(o.EBX), uint64(o.ECX), uint64(o.EDX)},
			[]uint64{uint64(e.Function), uint64(e.Index), uint64(e.Flags), uint64(e.Eax), uint64(e.Ebx), uint64(e.Ecx), uint64(e.Edx)})
	}
}

func TestMSRIndexListAgainstGokvm(t *testing.T) {
	g := newGuest(t, guestOptions{})
	ours, err := g.sys.MSRIndexList()
	g.ok(err)
	theirs := gokvm.MSRList{}
	theirs.NMSRs = uint32(len(theirs.Indicies))
	g.ok(gokvm.GetMSRIndexList(uintptr(g.sys.fd.n), &theirs))
	if !slices.Equal(ours, theirs.Indicies[:theirs.NMSRs]) {
		t.Errorf("we list %#x, gokvm %#x", ours, theirs.Indicies[:theirs.NMSRs])
	}
}
