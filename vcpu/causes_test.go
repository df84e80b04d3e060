package vcpu_test

import (
	"sync/atomic"
	"testing"

	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/vcpu"
)

// causesAt is where the registers of TestCauses' devices are, 4 KiB each.
const causesAt = mmioAt + 0x10000

// newCausesGuest is newGuest with two devices' cause registers.
func newCausesGuest(t *testing.T, mmio vcpu.Bus, words []*atomic.Uint32, code ...byte) *guest {
	t.Helper()
	vm, mem := newVM(t)
	copy(mem[codeAt:], code)
	g := &guest{t: t, mem: mem, events: make(chan vcpu.Event, 8)}
	var err error
	g.VCPU, err = vcpu.Start(vm, vcpu.Options{
		PIO: unwanted(t, "port"), MMIO: mmio,
		Causes: &kvm.CauseRegisters{Base: causesAt, Shift: 12, Status: 0x60, ACK: 0x64, Words: words},
		Setup:  func(c *kvm.VCPU) error { return userMode(c, mem, kvm.Regs{RBX: causesAt}) },
		Event:  func(e vcpu.Event) { g.events <- e },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Stop)
	return g
}

// The driver reads why it was interrupted and says so, with no exit to us; every
// other access of the same devices reaches the bus.
func TestCausesAreServedWithoutTheBus(t *testing.T) {
	first, second := new(atomic.Uint32), new(atomic.Uint32)
	first.Store(3)
	second.Store(0xf0f0f0f1)
	var seen []uint64
	bus := busFunc(func(addr uint64, p []byte, _ bool) { seen = append(seen, addr-causesAt, uint64(len(p))) })
	g := newCausesGuest(t, bus, []*atomic.Uint32{first, second},
		0x8b, 0x43, 0x60, // mov eax, [rbx+0x60]
		0x89, 0x43, 0x64, // mov [rbx+0x64], eax
		0x8b, 0x8b, 0x60, 0x10, 0, 0, // mov ecx, [rbx+0x1060]: the second's
		0xc7, 0x83, 0x64, 0x10, 0, 0, 0xf1, 0, 0, 0, // mov dword [rbx+0x1064], 0xf1
		0x89, 0x0c, 0x25, 0x00, 0x60, 0, 0, // mov [dataAt], ecx
		0x89, 0x43, 0x60, // mov [rbx+0x60], eax: a write to the one that is read
		0x8b, 0x53, 0x64, // mov edx, [rbx+0x64]: and the other way round
		0x8a, 0x53, 0x60, // mov dl, [rbx+0x60]: one byte
		0x8b, 0x93, 0x60, 0x20, 0, 0, // mov edx, [rbx+0x2060]: there is no third
		0x8b, 0x53, 0x70, // mov edx, [rbx+0x70]: another register
		0xc6, 0x04, 0x25, 0, 0x70, 0, 0, 1, // mov byte [counter], 1
		0xeb, 0xfe,
	)
	g.ok(g.Resume())
	eventually(t, "the guest is done", func() bool { return g.count() == 1 })
	g.ok(g.Park())
	if a, b := first.Load(), second.Load(); a != 0 || b != 0xf0f0f000 {
		t.Errorf("causes %#x and %#x after they were acknowledged", a, b)
	}
	if n := uint32(g.mem[dataAt]) | uint32(g.mem[dataAt+1])<<8 | uint32(g.mem[dataAt+2])<<16 | uint32(g.mem[dataAt+3])<<24; n != 0xf0f0f0f1 {
		t.Errorf("the second's status was read as %#x", n)
	}
	want := []uint64{0x60, 4, 0x64, 4, 0x60, 1, 0x2060, 4, 0x70, 4}
	if len(seen) != len(want) {
		t.Fatalf("the bus saw %#x, want %#x", seen, want)
	}
	for i := range want {
		if seen[i] != want[i] {
			t.Fatalf("the bus saw %#x, want %#x", seen, want)
		}
	}
	m := map[string]uint64{}
	g.Counters().Add(m)
	if m["exit_cause_total"] != 4 || m["exit_mmio_total"] != 5 {
		t.Errorf("counted %v", m)
	}
}

// A guest that does nothing but ask cannot keep its vCPU from being parked, and
// loses nothing of what it is interrupted for; a tracer sees its accesses.
func TestCausesLeaveTheVCPUInHand(t *testing.T) {
	word := new(atomic.Uint32)
	traced := make(chan vcpu.Exit, 1)
	served := busFunc(func(_ uint64, p []byte, write bool) { // while traced
		if !write {
			p[0], p[1], p[2], p[3] = byte(word.Load()), 0, 0, 0
			return
		}
		word.And(^uint32(p[0]))
	})
	g := newCausesGuest(t, served, []*atomic.Uint32{word},
		// again:
		0x8b, 0x43, 0x60, // mov eax, [rbx+0x60]
		0x89, 0x43, 0x64, // mov [rbx+0x64], eax
		0x01, 0x04, 0x25, 0x00, 0x70, 0, 0, // add [counter], eax
		0xeb, 0xf1, // jmp again
	)
	g.ok(g.Resume())
	const rounds = 200
	for range rounds {
		word.Or(1)
		eventually(t, "the cause is acknowledged", func() bool { return word.Load() == 0 })
	}
	g.ok(g.Park())
	if n := g.count(); n != rounds && n != rounds-1 { // the last may be read and not added
		t.Errorf("the guest counted %d causes of %d", n, rounds)
	}
	g.ok(g.Resume())
	g.ok(g.SetTracer(func(e vcpu.Exit) {
		if e.Reason == kvm.ExitMMIO {
			select {
			case traced <- e:
			default:
			}
		}
	}))
	if e := <-traced; e.Addr != causesAt+0x60 && e.Addr != causesAt+0x64 {
		t.Errorf("traced %+v", e)
	}
	g.ok(g.SetTracer(nil))
	before := g.Counters().Causes.Load()
	eventually(t, "they are served again", func() bool { return g.Counters().Causes.Load() > before })
	g.ok(g.Park())
}
