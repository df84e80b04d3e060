package kvm

import (
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

// guest is a VM with one vCPU and some memory at guest physical 0, for tests
// that run a few instructions.
type guest struct {
	t    testing.TB
	sys  *System
	vm   *VM
	vcpu *VCPU
	mem  []byte
}

// guestOptions says how a guest differs from the plain one.
type guestOptions struct {
	memory     int          // bytes; 0 is 64 KiB
	irqchip    bool         // in-kernel interrupt controllers
	beforeVCPU func(*guest) // after the VM, before its vCPU
	slotFlags  uint32
}

// codeAt is where guest code starts.
const codeAt = 0x1000

// newGuest makes a guest whose vCPU starts at codeAt, in real mode. The test's
// goroutine is locked to its thread, which is the vCPU's.
func newGuest(t testing.TB, o guestOptions) *guest {
	t.Helper()
	testenv.Require(t, testenv.KVM)
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	g := &guest{t: t}
	var err error
	if g.sys, err = Open(); err != nil {
		t.Fatal(err)
	}
	closeAfter(t, g.sys)
	if g.vm, err = g.sys.CreateVM(); err != nil {
		t.Fatal(err)
	}
	if o.memory == 0 {
		o.memory = 64 << 10
	}
	g.mem, err = unix.Mmap(-1, 0, o.memory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	// Runs after the VM and the vCPU were closed.
	t.Cleanup(func() { _ = unix.Munmap(g.mem) })
	closeAfter(t, g.vm)
	if err := g.vm.SetMemorySlot(0, o.slotFlags, 0, g.mem); err != nil {
		t.Fatal(err)
	}
	if err := g.vm.SetTSSAddr(0xfffbd000); err != nil {
		t.Fatal(err)
	}
	if o.irqchip {
		if err := g.vm.CreateIRQChip(); err != nil {
			t.Fatal(err)
		}
	}
	if o.beforeVCPU != nil {
		o.beforeVCPU(g)
	}
	if g.vcpu, err = g.vm.CreateVCPU(0); err != nil {
		t.Fatal(err)
	}
	closeAfter(t, g.vcpu)
	g.start(codeAt)
	return g
}

func closeAfter(t testing.TB, c interface{ Close() error }) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// start points the vCPU at a real mode address, with flat segments from 0.
func (g *guest) start(ip uint64) {
	g.t.Helper()
	s, err := g.vcpu.Sregs()
	if err != nil {
		g.t.Fatal(err)
	}
	for _, seg := range []*Segment{&s.CS, &s.DS, &s.ES, &s.SS} {
		seg.Base, seg.Selector = 0, 0
	}
	g.ok(g.vcpu.SetSregs(&s))
	g.ok(g.vcpu.SetRegs(&Regs{RIP: ip, RSP: 0x8000, RFLAGS: 2}))
}

// code puts instructions at codeAt.
func (g *guest) code(b ...byte) { copy(g.mem[codeAt:], b) }

func (g *guest) ok(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// run runs the vCPU until something other than a stray signal ends it.
func (g *guest) run() ExitReason {
	g.t.Helper()
	for {
		r, err := g.vcpu.Run()
		g.ok(err)
		if r != ExitIntr && r != ExitAgain {
			return r
		}
	}
}

func (g *guest) expect(want ExitReason) {
	g.t.Helper()
	got := g.run()
	if got == want {
		return
	}
	regs, _ := g.vcpu.Regs()
	switch got {
	case ExitInternalError:
		g.t.Fatalf("exit %v (%v), want %v; rip %#x", got, g.vcpu.InternalError(), want, regs.RIP)
	case ExitMMIO:
		g.t.Fatalf("exit %v (%+v), want %v; rip %#x", got, g.vcpu.MMIO(), want, regs.RIP)
	case ExitIO:
		g.t.Fatalf("exit %v (%+v), want %v; rip %#x", got, g.vcpu.IO(), want, regs.RIP)
	default:
		g.t.Fatalf("exit %v, want %v; rip %#x", got, want, regs.RIP)
	}
}

// wantErr checks that err wraps target.
func wantErr(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error %v, want one wrapping %v", err, target)
	}
}

// protectedMode switches the vCPU to flat 32-bit protected mode at CPL 0,
// without paging.
func (g *guest) protectedMode() {
	g.t.Helper()
	s, err := g.vcpu.Sregs()
	g.ok(err)
	code := Segment{Limit: 0xffffffff, Selector: 8, Type: 0xb, Present: 1, DB: 1, S: 1, G: 1}
	data := code
	data.Selector, data.Type = 16, 3
	s.CS = code
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.CR0 |= 1
	g.ok(g.vcpu.SetSregs(&s))
}

// userMode switches the vCPU to 64-bit mode at CPL 3 with I/O privileges,
// where code runs natively on every host. The first 16 MiB are mapped one to
// one; page tables are at 0x2000 to 0x4fff, so memory must reach that far.
func (g *guest) userMode() {
	g.t.Helper()
	const present, write, user, large = 1, 2, 4, 0x80
	entry := func(at int, v uint64) { binary.LittleEndian.PutUint64(g.mem[at:], v) }
	entry(0x2000, 0x3000|present|write|user)
	entry(0x3000, 0x4000|present|write|user)
	for i := range 8 {
		entry(0x4000+8*i, uint64(i)<<21|present|write|user|large)
	}
	s, err := g.vcpu.Sregs()
	g.ok(err)
	code := Segment{Limit: 0xffffffff, Selector: 0x33, Type: 0xb, Present: 1, DPL: 3, L: 1, S: 1, G: 1}
	data := Segment{Limit: 0xffffffff, Selector: 0x2b, Type: 3, Present: 1, DPL: 3, DB: 1, S: 1, G: 1}
	s.CS = code
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.TR = Segment{Base: 0x5000, Limit: 0x67, Selector: 0x40, Type: 0xb, Present: 1}
	s.CR0 = 0x80000033 // PG, NE, ET, MP, PE
	s.CR3 = 0x2000
	s.CR4 = 0x20   // PAE
	s.EFER = 0x500 // LMA, LME
	s.GDT, s.IDT = DTable{}, DTable{}
	g.ok(g.vcpu.SetSregs(&s))
	g.ok(g.vcpu.SetRegs(&Regs{RIP: codeAt, RSP: 0x8000, RFLAGS: 0x3002})) // IOPL 3
}
