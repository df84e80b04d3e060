package kvm

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRegsRoundTrip(t *testing.T) {
	g := newGuest(t, guestOptions{})
	want := Regs{
		RAX: 1, RBX: 2, RCX: 3, RDX: 4, RSI: 5, RDI: 6, RSP: 7, RBP: 8,
		R8: 9, R9: 10, R10: 11, R11: 12, R12: 13, R13: 14, R14: 15, R15: 1 << 63,
		RIP: 0x1234, RFLAGS: 2,
	}
	g.ok(g.vcpu.SetRegs(&want))
	got, err := g.vcpu.Regs()
	g.ok(err)
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestSregsRoundTrip(t *testing.T) {
	g := newGuest(t, guestOptions{memory: 1 << 20})
	g.userMode()
	want, err := g.vcpu.Sregs()
	g.ok(err)
	if want.CS.DPL != 3 || want.CS.L != 1 || want.EFER&0x400 == 0 || want.CR3 != 0x2000 {
		t.Errorf("64-bit user mode reads back as %+v", want)
	}
	g.ok(g.vcpu.SetSregs(&want))
	got, err := g.vcpu.Sregs()
	g.ok(err)
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	bad := want
	bad.EFER &^= 0x400 // LMA off while paging in long mode is on
	wantErr(t, g.vcpu.SetSregs(&bad), unix.EINVAL)
}

func TestSregs2AgreesWithSregs(t *testing.T) {
	g := newGuest(t, guestOptions{memory: 1 << 20})
	g.userMode()
	s, err := g.vcpu.Sregs()
	g.ok(err)
	s2, err := g.vcpu.Sregs2()
	if errors.Is(err, ErrNotSupported) {
		return // TestMissingCapabilities holds KVM to it
	}
	g.ok(err)
	if s2.CS != s.CS || s2.TR != s.TR || s2.CR3 != s.CR3 || s2.EFER != s.EFER || s2.APICBase != s.APICBase || s2.GDT != s.GDT {
		t.Errorf("SREGS2 %+v\nSREGS %+v", s2, s)
	}
	g.ok(g.vcpu.SetSregs2(&s2))
}

func TestOtherStateRoundTrips(t *testing.T) {
	g := newGuest(t, guestOptions{irqchip: true})
	cpuid, err := g.sys.SupportedCPUID()
	g.ok(err)
	g.ok(g.vcpu.SetCPUID(cpuid))

	d, err := g.vcpu.DebugRegs()
	g.ok(err)
	d.DB[0] = 0x1000
	g.ok(g.vcpu.SetDebugRegs(&d))
	if got, err := g.vcpu.DebugRegs(); err != nil || got != d {
		t.Errorf("debug registers %+v, %v; want %+v", got, err, d)
	}

	x, err := g.vcpu.XCRs()
	g.ok(err)
	if x.NrXCRs == 0 || x.XCRs[0].XCR != 0 || x.XCRs[0].Value&1 == 0 {
		t.Errorf("XCRs %+v, want XCR0 with x87 on", x)
	}
	x.XCRs[0].Value |= 3 // SSE
	g.ok(g.vcpu.SetXCRs(&x))
	if got, err := g.vcpu.XCRs(); err != nil || got.XCRs[0] != x.XCRs[0] {
		t.Errorf("XCR0 %+v, %v; want %+v", got.XCRs[0], err, x.XCRs[0])
	}

	f, err := g.vcpu.FPU()
	g.ok(err)
	f.XMM[3][0], f.MXCSR = 0x77, 0x1f80
	g.ok(g.vcpu.SetFPU(&f))
	if got, err := g.vcpu.FPU(); err != nil || got.XMM[3] != f.XMM[3] {
		t.Errorf("XMM3 % x, %v; want % x", got.XMM[3], err, f.XMM[3])
	}

	l, err := g.vcpu.LAPIC()
	g.ok(err)
	l.SetReg(LAPICSpurious, 0x1f3)
	g.ok(g.vcpu.SetLAPIC(&l))
	if got, err := g.vcpu.LAPIC(); err != nil || got.Reg(LAPICSpurious) != 0x1f3 {
		t.Errorf("spurious vector register %#x, %v; want 0x1f3", got.Reg(LAPICSpurious), err)
	}

	g.ok(g.vcpu.NMI())
	e, err := g.vcpu.VCPUEvents()
	g.ok(err)
	if e.NMIPending == 0 {
		t.Errorf("events %+v, want a pending NMI", e)
	}
	e.NMIPending, e.Flags = 0, e.Flags|VCPUEventValidNMIPending
	g.ok(g.vcpu.SetVCPUEvents(&e))
	if got, err := g.vcpu.VCPUEvents(); err != nil || got.NMIPending != 0 {
		t.Errorf("events %+v, %v; want no pending NMI", got, err)
	}

	for _, want := range []MPState{MPStateHalted, MPStateRunnable} {
		g.ok(g.vcpu.SetMPState(want))
		if got, err := g.vcpu.MPState(); err != nil || got != want {
			t.Errorf("MP state %v, %v; want %v", got, err, want)
		}
	}
}

func TestSecondVCPUWaitsForSIPI(t *testing.T) {
	g := newGuest(t, guestOptions{irqchip: true})
	ap, err := g.vm.CreateVCPU(1)
	g.ok(err)
	defer ap.Close()
	if s, err := ap.MPState(); err != nil || s != MPStateUninitialized {
		t.Errorf("MP state %v, %v; want %v", s, err, MPStateUninitialized)
	}
	if ap.ID() != 1 {
		t.Errorf("id %d, want 1", ap.ID())
	}
	ap.SetImmediateExit(true)
	if r, err := ap.Run(); err != nil || r != ExitIntr && r != ExitAgain {
		t.Errorf("Run of a waiting vCPU: %v, %v", r, err)
	}
}

func TestXSave(t *testing.T) {
	g := newGuest(t, guestOptions{})
	cpuid, err := g.sys.SupportedCPUID()
	g.ok(err)
	g.ok(g.vcpu.SetCPUID(cpuid))
	n, err := g.vm.XSaveSize()
	g.ok(err)
	if v, err := g.vm.CheckExtension(CapXSave2); err != nil || n < 4096 || v > 0 && v != n {
		t.Errorf("XSaveSize %d, capability says %d, %v", n, v, err)
	}
	x, err := g.vcpu.XSave()
	g.ok(err)
	if len(x) != n {
		t.Fatalf("XSAVE area of %d bytes, want %d", len(x), n)
	}
	// XMM1 is at 176 in the legacy area, XSTATE_BV at 512 (SDM volume 1,
	// chapter 13.4).
	copy(x[176:], []byte{1, 2, 3, 4})
	x[512] |= 3 // x87 and SSE are in use
	g.ok(g.vcpu.SetXSave(x))
	got, err := g.vcpu.XSave()
	g.ok(err)
	if !bytes.Equal(got[176:192], x[176:192]) || got[512]&2 == 0 {
		t.Errorf("XMM1 came back as % x, XSTATE_BV %#x; want % x", got[176:192], got[512], x[176:192])
	}
	if f, err := g.vcpu.FPU(); err != nil || !bytes.Equal(f.XMM[1][:], x[176:192]) {
		t.Errorf("KVM_GET_FPU says that XMM1 is % x, %v; want % x", f.XMM[1], err, x[176:192])
	}
	wantErr(t, g.vcpu.SetXSave(x[:len(x)-1]), unix.EINVAL)
	wantErr(t, g.vcpu.SetXSave(nil), unix.EINVAL)
}

// withoutDropped is want without the entries that got lacks and that are all
// zeros: they say the same as none does, and some kernels do not keep them.
func withoutDropped(want, got []CPUIDEntry) []CPUIDEntry {
	return slices.DeleteFunc(slices.Clone(want), func(w CPUIDEntry) bool {
		return w.EAX|w.EBX|w.ECX|w.EDX == 0 && !slices.ContainsFunc(got, func(e CPUIDEntry) bool {
			return e.Function == w.Function && e.Index == w.Index
		})
	})
}

func TestCPUIDRoundTrip(t *testing.T) {
	g := newGuest(t, guestOptions{})
	want, err := g.sys.SupportedCPUID()
	g.ok(err)
	if len(want) < 10 || want[0].Function != 0 {
		t.Fatalf("%d CPUID entries, the first for leaf %#x", len(want), want[0].Function)
	}
	g.ok(g.vcpu.SetCPUID(want))
	got, err := g.vcpu.CPUID()
	g.ok(err)
	want = withoutDropped(want, got)
	if len(got) != len(want) {
		t.Fatalf("%d entries came back, want %d", len(got), len(want))
	}
	for i := range want {
		w, e := want[i], got[i]
		if e.Function != w.Function || e.Index != w.Index || e.Flags != w.Flags {
			t.Errorf("entry %d is for leaf %#x.%d, want %#x.%d", i, e.Function, e.Index, w.Function, w.Index)
		}
		// KVM keeps some bits of leaves 1, 7, 0xd and of its own in step with
		// the guest's state.
		if slices.Contains([]uint32{1, 7, 0xd, CPUIDFeatures}, w.Function) {
			continue
		}
		if e != w {
			t.Errorf("leaf %#x.%d is %+v, want %+v", w.Function, w.Index, e, w)
		}
	}
	// What the guest sees.
	g.code(0x66, 0x31, 0xc0, 0x0f, 0xa2, 0xf4) // xor eax, eax; cpuid; hlt
	g.expect(ExitHLT)
	r, err := g.vcpu.Regs()
	g.ok(err)
	if uint32(r.RBX) != want[0].EBX || uint32(r.RCX) != want[0].ECX || uint32(r.RDX) != want[0].EDX {
		t.Errorf("the guest's leaf 0 is %#x %#x %#x, want %+v", r.RBX, r.RCX, r.RDX, want[0])
	}
}

func TestListsGrow(t *testing.T) {
	g := newGuest(t, guestOptions{})
	want, err := g.sys.SupportedCPUID()
	g.ok(err)
	for _, start := range []int{1, 2, len(want) - 1, len(want), len(want) + 1} {
		got, err := growCPUID(&g.sys.fd, &reqGetSupportedCPUID, start)
		if err != nil || len(got) != len(want) {
			t.Errorf("starting with room for %d: %d entries, %v; want %d", start, len(got), err, len(want))
		}
	}
	g.ok(g.vcpu.SetCPUID(want))
	kept, err := g.vcpu.CPUID()
	g.ok(err)
	if got, err := g.vcpu.cpuid(1); err != nil || len(got) != len(kept) {
		t.Errorf("KVM_GET_CPUID2 with little room: %d entries, %v; want %d", len(got), err, len(kept))
	}
	msrs, err := g.sys.MSRIndexList()
	g.ok(err)
	for _, start := range []int{0, 1, len(msrs), len(msrs) + 1} {
		got, err := growMSRList(&g.sys.fd, &reqGetMSRIndexList, start)
		if err != nil || !slices.Equal(got, msrs) {
			t.Errorf("starting with room for %d: %d MSRs, %v; want %d", start, len(got), err, len(msrs))
		}
	}
}

func TestSetCPUIDTooMany(t *testing.T) {
	g := newGuest(t, guestOptions{})
	err := g.vcpu.SetCPUID(make([]CPUIDEntry, 5000))
	wantErr(t, err, unix.E2BIG)
}

func TestMSRsRoundTrip(t *testing.T) {
	g := newGuest(t, guestOptions{})
	want := []MSREntry{{Index: MSRSTAR, Data: 0x1234}, {Index: MSRSysenterCS, Data: 0x10}, {Index: MSRTSC, Data: 1 << 40}}
	n, err := g.vcpu.SetMSRs(want)
	if n != len(want) || err != nil {
		t.Fatalf("SetMSRs: %d, %v", n, err)
	}
	got := []MSREntry{{Index: MSRSTAR}, {Index: MSRSysenterCS}, {Index: MSRTSC}}
	n, err = g.vcpu.MSRs(got)
	if n != len(got) || err != nil {
		t.Fatalf("MSRs: %d, %v", n, err)
	}
	if got[0] != want[0] || got[1] != want[1] || got[2].Data < want[2].Data {
		t.Errorf("got %+v, want %+v and a TSC that moved on", got, want)
	}
}

func TestRefusedMSRIsNamed(t *testing.T) {
	g := newGuest(t, guestOptions{})
	const bogus = 0x0badbad0
	ignore := false
	if b, err := os.ReadFile("/sys/module/kvm/parameters/ignore_msrs"); err == nil {
		ignore = strings.HasPrefix(string(b), "Y")
	}
	for _, before := range []int{1, msrBatch - 1, msrBatch, msrBatch + 3} {
		var list []MSREntry
		for range before {
			list = append(list, MSREntry{Index: MSRSTAR, Data: 5})
		}
		list = append(list, MSREntry{Index: bogus, Data: 7}, MSREntry{Index: MSRLSTAR, Data: 9})
		for name, call := range map[string]func([]MSREntry) (int, error){"get": g.vcpu.MSRs, "set": g.vcpu.SetMSRs} {
			n, err := call(slices.Clone(list))
			if ignore {
				if n != len(list) || err != nil {
					t.Errorf("%s: %d, %v on a host that ignores unknown MSRs", name, n, err)
				}
				continue
			}
			var me *MSRError
			if n != before || !errors.As(err, &me) || me.Index != bogus || me.Done != before || me.Total != len(list) {
				t.Fatalf("%s: %d done, error %v; want %d and MSR %#x", name, n, err, before, bogus)
			}
			if !strings.Contains(err.Error(), "0xbadbad0") {
				t.Errorf("%s: %q does not name the MSR", name, err)
			}
		}
		if ignore {
			continue
		}
		// The rest can be done by skipping it.
		if n, err := g.vcpu.SetMSRs(list[before+1:]); n != 1 || err != nil {
			t.Errorf("after skipping: %d, %v", n, err)
		}
	}
}

func TestEveryListedMSRIsReadable(t *testing.T) {
	g := newGuest(t, guestOptions{irqchip: true})
	cpuid, err := g.sys.SupportedCPUID()
	g.ok(err)
	g.ok(g.vcpu.SetCPUID(cpuid))
	list, err := g.sys.MSRIndexList()
	g.ok(err)
	if !slices.Contains(list, MSRSTAR) || !slices.Contains(list, MSRKVMSystemTimeNew) {
		t.Errorf("list %#x lacks STAR or the kvmclock's", list)
	}
	entries := make([]MSREntry, len(list))
	for i, m := range list {
		entries[i].Index = m
	}
	skipped := 0
	for rest := entries; len(rest) > 0; {
		n, err := g.vcpu.MSRs(rest)
		if err == nil {
			break
		}
		var me *MSRError
		if !errors.As(err, &me) || me.Index != rest[n].Index {
			t.Fatalf("%v after %d", err, n)
		}
		t.Logf("refused: %v", err)
		skipped++
		rest = rest[n+1:]
	}
	if skipped > len(list)/2 {
		t.Errorf("%d of %d refused", skipped, len(list))
	}
}

func TestFeatureMSRs(t *testing.T) {
	g := newGuest(t, guestOptions{})
	list, err := g.sys.MSRFeatureIndexList()
	if errors.Is(err, ErrNotSupported) {
		return
	}
	g.ok(err)
	for _, m := range list {
		e := []MSREntry{{Index: m}}
		if n, err := g.sys.FeatureMSRs(e); err != nil || n != 1 {
			t.Errorf("%s is listed: %d, %v", MSRName(m), n, err)
		}
	}
}

func TestMSRName(t *testing.T) {
	for index, want := range map[uint32]string{
		MSRTSCDeadline: "MSR 0x6e0 (TSC_DEADLINE)",
		0x12345:        "MSR 0x12345",
	} {
		if got := MSRName(index); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestMSRFilterDeniesAndExits(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.ok(g.vm.EnableCap(CapX86UserSpaceMSR, MSRExitReasonFilter))
	g.ok(g.vm.SetMSRFilter(false, []MSRFilterRange{{
		Flags: MSRFilterRead | MSRFilterWrite, Base: MSRSysenterCS, N: 1, Bitmap: []byte{0},
	}}))
	g.code(
		0x66, 0xb9, 0x74, 0x01, 0, 0, // mov ecx, 0x174
		0x0f, 0x32, // rdmsr
		0xf4,
	)
	g.expect(ExitX86RDMSR)
	m := g.vcpu.MSR()
	if m.Index != MSRSysenterCS || m.Reason != MSRExitReasonFilter {
		t.Errorf("got %+v, want a filtered read of SYSENTER_CS", m)
	}
	m.Data = 0x1_0000_0042
	g.expect(ExitHLT)
	r, err := g.vcpu.Regs()
	g.ok(err)
	if uint32(r.RAX) != 0x42 || uint32(r.RDX) != 1 {
		t.Errorf("EDX:EAX %#x:%#x, want 1:0x42", r.RDX, r.RAX)
	}
	if err := g.vm.SetMSRFilter(false, []MSRFilterRange{{Base: 1, N: 9, Bitmap: []byte{0}}}); err == nil {
		t.Error("a bitmap shorter than its range was taken")
	}
	if err := g.vm.SetMSRFilter(false, make([]MSRFilterRange, 17)); err == nil {
		t.Error("17 ranges were taken")
	}
}

func TestClock(t *testing.T) {
	g := newGuest(t, guestOptions{irqchip: true})
	flags, err := g.vm.CheckExtension(CapAdjustClock)
	g.ok(err)
	const hour = 3_600_000_000_000
	g.ok(g.vm.SetClock(&ClockData{Clock: hour}))
	a, err := g.vm.Clock()
	g.ok(err)
	if a.Clock < hour || a.Clock > hour+hour/60 {
		t.Errorf("clock %d just after it was set to %d", a.Clock, uint64(hour))
	}
	b, err := g.vm.Clock()
	g.ok(err)
	if b.Clock < a.Clock {
		t.Errorf("clock went from %d to %d", a.Clock, b.Clock)
	}
	if flags&ClockRealtime == 0 {
		return
	}
	if b.Flags&ClockRealtime == 0 {
		t.Log("the host's clock source gives no real time with the clock")
		return
	}
	// Taken up with a realtime ten seconds ago the clock is ten seconds on.
	back := ClockData{Clock: hour, Flags: ClockRealtime, Realtime: b.Realtime - 10_000_000_000}
	g.ok(g.vm.SetClock(&back))
	c, err := g.vm.Clock()
	g.ok(err)
	if c.Clock < hour+10_000_000_000 || c.Clock > hour+70_000_000_000 {
		t.Errorf("clock %d, want %d plus ten seconds and a little", c.Clock, uint64(hour))
	}
}

func TestKVMClockCtrlWithoutAGuestClock(t *testing.T) {
	g := newGuest(t, guestOptions{irqchip: true})
	wantErr(t, g.vcpu.KVMClockCtrl(), unix.EINVAL)
	if err := g.vcpu.KVMClockCtrl(); errors.Is(err, ErrNotSupported) {
		t.Errorf("%v, though the host has it", err)
	}
	// With the clock's page set, it works.
	if _, err := g.vcpu.SetMSRs([]MSREntry{{Index: MSRKVMSystemTimeNew, Data: 0x6000 | 1}}); err != nil {
		t.Fatal(err)
	}
	g.ok(g.vcpu.KVMClockCtrl())
}

func TestTSC(t *testing.T) {
	g := newGuest(t, guestOptions{})
	khz, err := g.vcpu.TSCKHz()
	g.ok(err)
	if khz < 100_000 {
		t.Errorf("TSC of %d kHz", khz)
	}
	g.ok(g.vcpu.SetTSCKHz(khz))
	if !g.vcpu.HasTSCOffset() {
		_, err := g.vcpu.TSCOffset()
		wantErr(t, err, ErrNotSupported)
		return
	}
	const want = 0x123456789a
	err = g.vcpu.SetTSCOffset(want)
	if _, serr := os.Stat("/sys/module/kvm_pvm"); serr == nil && err != nil {
		wantErr(t, err, ErrNotSupported) // it says that it has the attribute, and ignores it
		return
	}
	g.ok(err)
	if got, err := g.vcpu.TSCOffset(); err != nil || got != want {
		t.Errorf("TSC offset %#x, %v; want %#x", got, err, want)
	}
}

func TestSingleStep(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.code(0x90, 0x90, 0xe6, 0x80)
	g.ok(g.vcpu.SetGuestDebug(&GuestDebug{Control: GuestDebugEnable | GuestDebugSingleStep}))
	for want := uint64(codeAt + 1); want <= codeAt+2; want++ {
		g.expect(ExitDebug)
		if d := g.vcpu.Debug(); d.PC != want || d.Exception != 1 {
			t.Errorf("got %+v, want #DB at %#x", d, want)
		}
	}
	g.ok(g.vcpu.SetGuestDebug(&GuestDebug{}))
	g.expect(ExitIO)
}

func TestTranslate(t *testing.T) {
	g := newGuest(t, guestOptions{memory: 1 << 20})
	g.userMode()
	gpa, ok, err := g.vcpu.Translate(0x1234)
	if err != nil || !ok || gpa != 0x1234 {
		t.Errorf("0x1234 is at %#x, %v, %v; want 0x1234", gpa, ok, err)
	}
	if gpa, ok, err := g.vcpu.Translate(1 << 40); err != nil || ok {
		t.Errorf("an unmapped address is at %#x, %v, %v", gpa, ok, err)
	}
}

func TestInterruptWithoutIRQChip(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.mem[4*0x40], g.mem[4*0x40+1] = 0x00, 0x11    // vector 0x40: 0:0x1100
	copy(g.mem[0x1100:], []byte{0xe6, 0x80, 0xf4}) // out 0x80, al; hlt
	g.code(0xfb, 0x90, 0x90, 0xeb, 0xfc)           // sti; nop; nop; jmp to the nops
	g.vcpu.SetRequestInterruptWindow(true)
	g.expect(ExitIRQWindowOpen)
	if s := g.vcpu.RunState(); !s.ReadyForInterruptInjection || !s.IF {
		t.Errorf("at the interrupt window the state is %+v", s)
	}
	g.vcpu.SetRequestInterruptWindow(false)
	g.ok(g.vcpu.Interrupt(0x40))
	g.expect(ExitIO)
	if e := g.vcpu.IO(); e.Port != 0x80 {
		t.Errorf("got %+v, want the handler's write to 0x80", e)
	}
}

func TestSignalMask(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.code(0xf4)
	g.ok(g.vcpu.SetSignalMask(1 << (int(unix.SIGUSR2) - 1)))
	g.expect(ExitHLT)
	g.ok(g.vcpu.ClearSignalMask())
}

func TestMemorySlots(t *testing.T) {
	g := newGuest(t, guestOptions{})
	wantErr(t, g.vm.SetMemorySlot(1, 0, 0x1000, g.mem[:4096]), unix.EEXIST)
	wantErr(t, g.vm.SetMemorySlot(1, 0, 0x20001, g.mem[:4096]), unix.EINVAL)
	err := g.vm.SetMemorySlot(1, 0, 0x20000, g.mem[:100])
	wantErr(t, err, unix.EINVAL)
	if !strings.Contains(err.Error(), "slot 1 at 0x20000") {
		t.Errorf("%q does not name the slot", err)
	}
	if err := g.vm.SetMemorySlot(1, 0, 0x20000, nil); err == nil {
		t.Error("an empty slot was taken")
	}
	// Memory appears to the guest and goes away again.
	g.code(0xb8, 0, 0x20, 0x8e, 0xd8, 0xa0, 0, 0, 0xf4) // ds = 0x2000; mov al, [0]; hlt
	g.mem[0x3000] = 0x5a
	g.ok(g.vm.SetMemorySlot(1, 0, 0x20000, g.mem[0x3000:0x4000]))
	g.expect(ExitHLT)
	if r, err := g.vcpu.Regs(); err != nil || r.RAX&0xff != 0x5a {
		t.Errorf("AL %#x, %v; want 0x5a", r.RAX, err)
	}
	g.ok(g.vm.DeleteMemorySlot(1))
	g.start(codeAt)
	g.expect(ExitMMIO)
}

func TestReadonlySlotWritesAreMMIO(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.ok(g.vm.SetMemorySlot(1, MemReadonly, 0x20000, g.mem[0x3000:0x4000]))
	g.code(0xb8, 0, 0x20, 0x8e, 0xd8, 0xa2, 1, 0, 0xf4) // ds = 0x2000; mov [1], al; hlt
	g.expect(ExitMMIO)
	if e := g.vcpu.MMIO(); e.Addr != 0x20001 || !e.Write {
		t.Errorf("got %+v, want a write to 0x20001", e)
	}
	if g.mem[0x3001] != 0 {
		t.Error("the write went through")
	}
}

func TestIdentityMapAddrComesBeforeVCPUs(t *testing.T) {
	g := newGuest(t, guestOptions{beforeVCPU: func(g *guest) {
		g.ok(g.vm.SetIdentityMapAddr(0xfffbc000))
		g.ok(g.vm.SetBootCPUID(0))
	}})
	wantErr(t, g.vm.SetIdentityMapAddr(0xfffbc000), unix.EINVAL)
}

// TestStateSurvivesJSON: snapshots hold these structs as they are.
func TestStateSurvivesJSON(t *testing.T) {
	g := newGuest(t, guestOptions{irqchip: true})
	s, err := g.vcpu.Sregs()
	g.ok(err)
	l, err := g.vcpu.LAPIC()
	g.ok(err)
	type state struct {
		Sregs Sregs
		LAPIC LAPICState
	}
	want := state{s, l}
	b, err := json.Marshal(want)
	g.ok(err)
	var got state
	g.ok(json.Unmarshal(b, &got))
	if got != want {
		t.Error("state differs after a trip through JSON")
	}
}
