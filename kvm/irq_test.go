package kvm

import (
	"encoding/binary"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// eventFD returns a non-blocking eventfd that is closed with the test.
func eventFD(t *testing.T) int {
	t.Helper()
	n, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(n) })
	return n
}

func signal(t *testing.T, n int) {
	t.Helper()
	if _, err := unix.Write(n, binary.NativeEndian.AppendUint64(nil, 1)); err != nil {
		t.Fatal(err)
	}
}

// count returns how often an eventfd was signalled since the last call.
func count(t *testing.T, n int) uint64 {
	t.Helper()
	var b [8]byte
	_, err := unix.Read(n, b[:])
	if err == unix.EAGAIN {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[:])
}

const (
	testVector = 0x40
	msiAddr    = 0xfee00000 // to APIC id 0
)

// interruptGuest makes a guest that halts with interrupts on, and whose
// handler for vector testVector+i writes i to port 0x80, for i below 3.
func interruptGuest(t *testing.T) *guest {
	g := newGuest(t, guestOptions{irqchip: true})
	g.code(0xfb, 0xf4, 0xeb, 0xfc) // sti; hlt; jmp back to sti
	for i := range byte(3) {
		at := uint16(0x1100 + 16*int(i))
		binary.LittleEndian.PutUint16(g.mem[4*(testVector+int(i)):], at)
		copy(g.mem[at:], []byte{0xb0, i, 0xe6, 0x80, 0xf4}) // mov al, i; out 0x80, al; hlt
	}
	l, err := g.vcpu.LAPIC()
	g.ok(err)
	l.SetReg(LAPICSpurious, 0x1ff) // software enabled
	g.ok(g.vcpu.SetLAPIC(&l))
	return g
}

// expectHandler runs until a handler of interruptGuest reports itself.
func (g *guest) expectHandler(want byte) {
	g.t.Helper()
	g.expect(ExitIO)
	if e := g.vcpu.IO(); e.Port != 0x80 || !e.Out || e.Data[0] != want {
		g.t.Fatalf("got %+v, want handler %d at port 0x80", e, want)
	}
}

func TestIRQFDThroughMSIRoute(t *testing.T) {
	g := interruptGuest(t)
	e := eventFD(t)
	const gsi = 30
	// More than one added route, so that the size of an entry matters.
	routes := append(DefaultIRQRoutes(),
		MSIRoute(gsi-1, msiAddr, testVector+1),
		MSIRoute(gsi, msiAddr, testVector+2),
		MSIRoute(gsi+1, msiAddr, testVector),
	)
	g.ok(g.vm.SetGSIRouting(routes))
	g.ok(g.vm.AssignIRQFD(e, gsi))
	wantErr(t, g.vm.AssignIRQFD(e, gsi), unix.EBUSY)
	signal(t, e)
	g.expectHandler(2)
	g.ok(g.vm.DeassignIRQFD(e, gsi))
	g.ok(g.vm.AssignIRQFD(e, gsi))
}

func TestRoutingCanChangeUnderAnIRQFD(t *testing.T) {
	g := interruptGuest(t)
	e := eventFD(t)
	g.ok(g.vm.SetGSIRouting([]IRQRoute{MSIRoute(5, msiAddr, testVector)}))
	g.ok(g.vm.AssignIRQFD(e, 5))
	g.ok(g.vm.SetGSIRouting([]IRQRoute{MSIRoute(5, msiAddr, testVector+1)}))
	signal(t, e)
	g.expectHandler(1)
}

func TestRoutingTables(t *testing.T) {
	g := newGuest(t, guestOptions{irqchip: true})
	g.ok(g.vm.SetGSIRouting(DefaultIRQRoutes()))
	g.ok(g.vm.SetGSIRouting(nil))
	var many []IRQRoute
	for gsi := range uint32(1000) {
		many = append(many, MSIRoute(gsi, msiAddr, 0x30))
	}
	g.ok(g.vm.SetGSIRouting(many))
	err := g.vm.SetGSIRouting([]IRQRoute{{GSI: 1, Type: 99}})
	wantErr(t, err, unix.EINVAL)
}

func TestRouteConstructors(t *testing.T) {
	r := MSIRoute(7, 0x1234_fee0_1000, 0x4041)
	if addr, data, ok := r.MSI(); addr != 0x1234_fee0_1000 || data != 0x4041 || !ok || r.GSI != 7 {
		t.Errorf("MSI route came back as %#x, %#x, %v", addr, data, ok)
	}
	if _, _, ok := IRQChipRoute(4, IRQChipIOAPIC, 4).MSI(); ok {
		t.Error("an IOAPIC route says that it is an MSI")
	}
	d := DefaultIRQRoutes()
	if len(d) != 24+16 {
		t.Errorf("%d default routes, want 24 to the IOAPIC and 16 to the PICs", len(d))
	}
	if !slices.Contains(d, IRQChipRoute(12, IRQChipPICSlave, 4)) {
		t.Error("GSI 12 is not pin 4 of the slave PIC")
	}
}

func TestSignalMSI(t *testing.T) {
	g := interruptGuest(t)
	delivered, err := g.vm.SignalMSI(msiAddr, testVector+1)
	g.ok(err)
	if !delivered {
		t.Error("the MSI was not delivered")
	}
	g.expectHandler(1)
}

func TestIRQLineThroughPIC(t *testing.T) {
	g := interruptGuest(t)
	// The PIC's INTR comes in at LINT0.
	l, err := g.vcpu.LAPIC()
	g.ok(err)
	l.SetReg(LAPICLVTLINT0, APICDeliveryExtINT)
	g.ok(g.vcpu.SetLAPIC(&l))
	p, err := g.vm.PIC(IRQChipPICMaster)
	g.ok(err)
	p.IRQBase, p.IMR, p.Init4, p.InitState = testVector-2, 0xef, 1, 0
	g.ok(g.vm.SetPIC(IRQChipPICMaster, &p))
	g.ok(g.vm.SetIRQLine(4, true))
	g.expectHandler(2)
	g.ok(g.vm.SetIRQLine(4, false))
}

func TestIRQFDResample(t *testing.T) {
	g := interruptGuest(t)
	// The handler ends the interrupt through the x2APIC's EOI register.
	cpuid, err := g.sys.SupportedCPUID()
	g.ok(err)
	for i := range cpuid {
		if cpuid[i].Function == 1 {
			cpuid[i].ECX |= 1 << 21 // x2APIC, which KVM always emulates
		}
	}
	g.ok(g.vcpu.SetCPUID(cpuid))
	s, err := g.vcpu.Sregs()
	g.ok(err)
	s.APICBase |= 1 << 10
	g.ok(g.vcpu.SetSregs(&s))
	copy(g.mem[0x1100:], []byte{
		0x66, 0xb9, 0x0b, 0x08, 0, 0, // mov ecx, 0x80b
		0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, // xor eax, eax; xor edx, edx
		0x0f, 0x30, // wrmsr
		0xe6, 0x80, // out 0x80, al
		0xf4,
	})
	io, err := g.vm.IOAPIC()
	g.ok(err)
	io.RedirTbl[10] = testVector | 1<<15 // level-triggered, to APIC id 0
	g.ok(g.vm.SetIOAPIC(&io))

	e, r := eventFD(t), eventFD(t)
	g.ok(g.vm.AssignIRQFDResample(e, r, 10))
	if n := count(t, r); n != 0 {
		t.Errorf("resample eventfd counts %d before any interrupt", n)
	}
	for round := range 2 {
		g.start(codeAt)
		signal(t, e)
		g.expectHandler(0)
		waitUntil(t, "the EOI signals the resample eventfd", func() bool { return count(t, r) == 1 })
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	g.ok(g.vm.DeassignIRQFD(e, 10))
}

func TestPICRefusesTheIOAPIC(t *testing.T) {
	g := newGuest(t, guestOptions{irqchip: true})
	if _, err := g.vm.PIC(IRQChipIOAPIC); err == nil {
		t.Error("PIC took the IOAPIC")
	}
	if err := g.vm.SetPIC(IRQChipIOAPIC, &PICState{}); err == nil {
		t.Error("SetPIC took the IOAPIC")
	}
}

func TestIOAPICRoundTrip(t *testing.T) {
	g := newGuest(t, guestOptions{irqchip: true})
	s, err := g.vm.IOAPIC()
	g.ok(err)
	if s.BaseAddress != 0xfec00000 {
		t.Errorf("IOAPIC at %#x, want 0xfec00000", s.BaseAddress)
	}
	s.RedirTbl[5] = 1<<16 | 0x55 // masked, vector 0x55
	g.ok(g.vm.SetIOAPIC(&s))
	got, err := g.vm.IOAPIC()
	g.ok(err)
	if got.RedirTbl != s.RedirTbl {
		t.Errorf("redirection table came back as %#x, want %#x", got.RedirTbl, s.RedirTbl)
	}
}

func TestPIT2RoundTrip(t *testing.T) {
	g := newGuest(t, guestOptions{irqchip: true, beforeVCPU: func(g *guest) {
		g.ok(g.vm.CreatePIT2(PITSpeakerDummy))
	}})
	p, err := g.vm.PIT2()
	g.ok(err)
	p.Channels[2].Mode, p.Channels[2].Count = 3, 0x1234
	g.ok(g.vm.SetPIT2(&p))
	got, err := g.vm.PIT2()
	g.ok(err)
	if got.Channels[2].Mode != 3 || got.Channels[2].Count != 0x1234 {
		t.Errorf("channel 2 came back as %+v", got.Channels[2])
	}
}

func TestIOEventFDSwallowsTheExit(t *testing.T) {
	for _, c := range []struct {
		name string
		e    IOEventFD
		code []byte // makes the write three times, then halts
	}{
		{"port", IOEventFD{Addr: 0x70, Len: 1, PIO: true}, []byte{0xe6, 0x70, 0xe6, 0x70, 0xe6, 0x70, 0xf4}},
		{"port, any width", IOEventFD{Addr: 0x70, PIO: true}, []byte{0xe6, 0x70, 0xe7, 0x70, 0xe6, 0x70, 0xf4}},
		{"address", IOEventFD{Addr: 0x20000, Len: 2}, []byte{0xa3, 0, 0, 0xa3, 0, 0, 0xa3, 0, 0, 0xf4}},
		{"address, any width", IOEventFD{Addr: 0x20000}, []byte{0xa3, 0, 0, 0xa2, 0, 0, 0xa3, 0, 0, 0xf4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t, guestOptions{})
			s, err := g.vcpu.Sregs()
			g.ok(err)
			s.DS.Base, s.DS.Selector = 0x20000, 0x2000
			g.ok(g.vcpu.SetSregs(&s))
			g.code(c.code...)
			e := eventFD(t)
			g.ok(g.vm.AssignIOEventFD(e, c.e))
			g.expect(ExitHLT) // no exit for the writes
			if n := count(t, e); n != 3 {
				t.Errorf("eventfd counts %d, want 3", n)
			}
			g.ok(g.vm.DeassignIOEventFD(e, c.e))
			wantErr(t, g.vm.DeassignIOEventFD(e, c.e), unix.ENOENT)
			g.start(codeAt)
			s.DS.Selector = 0x2000
			g.ok(g.vcpu.SetSregs(&s))
			if r := g.run(); r != ExitIO && r != ExitMMIO {
				t.Errorf("after deassign the write is exit %v", r)
			}
			if n := count(t, e); n != 0 {
				t.Errorf("eventfd counts %d after deassign", n)
			}
		})
	}
}

func TestIOEventFDDatamatch(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.code(
		0xb0, 1, 0xe6, 0x70, // al = 1; out 0x70
		0xb0, 2, 0xe6, 0x70, // al = 2; out 0x70
		0xb0, 3, 0xe6, 0x70, // al = 3; out 0x70
		0xf4,
	)
	one, three := eventFD(t), eventFD(t)
	g.ok(g.vm.AssignIOEventFD(one, IOEventFD{Addr: 0x70, Len: 1, PIO: true, Match: true, DataMatch: 1}))
	g.ok(g.vm.AssignIOEventFD(three, IOEventFD{Addr: 0x70, Len: 1, PIO: true, Match: true, DataMatch: 3}))
	g.expect(ExitIO)
	if e := g.vcpu.IO(); e.Data[0] != 2 {
		t.Errorf("exit for %d, want the write that nobody matched, 2", e.Data[0])
	}
	g.expect(ExitHLT)
	if a, b := count(t, one), count(t, three); a != 1 || b != 1 {
		t.Errorf("eventfds count %d and %d, want 1 and 1", a, b)
	}
}

func TestBadEventFDsAreErrors(t *testing.T) {
	g := newGuest(t, guestOptions{irqchip: true})
	null, err := os.Open(os.DevNull)
	g.ok(err)
	defer null.Close()
	for name, err := range map[string]error{
		"irqfd":     g.vm.AssignIRQFD(int(null.Fd()), 5),
		"ioeventfd": g.vm.AssignIOEventFD(int(null.Fd()), IOEventFD{Addr: 1, Len: 1, PIO: true}),
		"width":     g.vm.AssignIOEventFD(eventFD(t), IOEventFD{Addr: 1, Len: 3, PIO: true}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
