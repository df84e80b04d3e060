package vcpu_test

import (
	"testing"

	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/vcpu"
)

func TestDebugExitParksUntilResume(t *testing.T) {
	vm, mem := newVM(t)
	copy(mem[codeAt:], []byte{0x90, 0x90, 0x90, 0xf3, 0x90, 0xeb, 0xfc}) // three nop; pause; jmp
	hits := make(chan kvm.DebugExit, 8)
	v, err := vcpu.Start(vm, vcpu.Options{
		PIO: unwanted(t, "port"), MMIO: unwanted(t, "memory"),
		Setup: func(c *kvm.VCPU) error { // real mode, for user mode is not stepped through on PVM hosts
			s, err := c.Sregs()
			if err != nil {
				return err
			}
			s.CS.Base, s.CS.Selector = 0, 0
			if err := c.SetSregs(&s); err != nil {
				return err
			}
			return c.SetRegs(&kvm.Regs{RIP: codeAt, RFLAGS: 2})
		},
		Event: func(e vcpu.Event) { t.Errorf("event %+v", e) },
		Debug: func(_ *kvm.VCPU, e kvm.DebugExit) bool { hits <- e; return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Stop)
	set := func(control uint32) {
		t.Helper()
		if err := v.Do(func(c *kvm.VCPU) error { return c.SetGuestDebug(&kvm.GuestDebug{Control: control}) }); err != nil {
			t.Fatal(err)
		}
	}
	at := func(pc uint64, exception uint32) {
		t.Helper()
		if err := v.Resume(); err != nil {
			t.Fatal(err)
		}
		if e := <-hits; e.PC != pc || e.Exception != exception {
			t.Fatalf("%+v, want exception %d at %#x", e, exception, pc)
		}
	}
	set(kvm.GuestDebugEnable | kvm.GuestDebugSingleStep)
	at(codeAt+1, 1)
	at(codeAt+2, 1)
	at(codeAt+3, 1)
	if n := v.Counters().Debug.Load(); n != 3 {
		t.Errorf("%d debug exits counted", n)
	}
}

func TestTracerSeesExits(t *testing.T) {
	seen := make(chan vcpu.Exit, 16)
	g := newGuest(t, busFunc(func(uint64, []byte, bool) {}), nil, kvm.Regs{RDX: 0x80, RAX: 0x1234},
		0x66, 0xef, // out dx, ax
		0xec,       // in al, dx
		0xeb, 0xfe) // jmp to itself
	g.ok(g.SetTracer(func(e vcpu.Exit) {
		if e.Reason == kvm.ExitIO {
			seen <- e
		}
	}))
	g.ok(g.Resume())
	if e := <-seen; e.Addr != 0x80 || e.Size != 2 || e.Count != 1 || !e.Write || e.Value != 0x1234 || e.At.IsZero() {
		t.Errorf("out: %+v", e)
	}
	if e := <-seen; e.Addr != 0x80 || e.Size != 1 || e.Write || e.Value != 0 {
		t.Errorf("in: %+v", e)
	}
	g.ok(g.SetTracer(nil))
}
