package vcpu_test

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/vcpu"
)

func TestParkStopsASpinningGuestAndResumeContinuesIt(t *testing.T) {
	g := newGuest(t, nil, nil, kvm.Regs{}, spin...)
	if g.regs().RIP != codeAt || g.count() != 0 {
		t.Fatal("the guest ran before Resume")
	}
	for range 3 {
		before := g.count()
		g.ok(g.Resume())
		eventually(t, "the guest counts", func() bool { return g.count() != before })
		g.ok(g.Park())
		at := g.count()
		for range 100 { // each a round trip to the vCPU's thread
			g.regs()
		}
		if now := g.count(); now != at {
			t.Fatalf("a parked guest counted from %d to %d", at, now)
		}
	}
	if g.Counters().Interrupted.Load() == 0 {
		t.Error("no exit counted for the kicks")
	}
}

func TestDoSeesARunningGuestBetweenTwoInstructions(t *testing.T) {
	g := newGuest(t, nil, nil, kvm.Regs{},
		0x48, 0xff, 0xc0, // inc rax
		0x48, 0x89, 0xc3, // mov rbx, rax
		0xeb, 0xf8, // jmp back
	)
	g.ok(g.Resume())
	var last uint64
	for range 300 {
		r := g.regs()
		want := r.RAX
		if r.RIP == codeAt+3 { // rbx is not yet written
			want--
		}
		if r.RBX != want || r.RAX < last || r.RIP < codeAt || r.RIP > codeAt+6 {
			t.Fatalf("rip %#x, rax %d after %d, rbx %d", r.RIP, r.RAX, last, r.RBX)
		}
		last = r.RAX
	}
	eventually(t, "the guest runs on after Do", func() bool { return g.regs().RAX > last })
}

func TestPortsReachTheirBus(t *testing.T) {
	var out []byte
	pio := busFunc(func(port uint64, p []byte, write bool) {
		switch {
		case port == 0x71 && !write && len(p) == 2:
			copy(p, []byte{0xef, 0xbe})
		case port == 0x80 && !write && len(p) == 1: // rep insb
			p[0] = byte(0xa0 + len(out))
			out = append(out, p[0])
		case port == 0xe9 && write:
			out = append(out, p...)
		default:
			t.Errorf("port %#x, %d bytes, write %v", port, len(p), write)
		}
	})
	g := newGuest(t, pio, nil, kvm.Regs{RSI: dataAt, RDI: dataAt + 0x100, RDX: 0xe9, RCX: 3},
		0x66, 0xe5, 0x71, // in ax, 0x71
		0x66, 0xef, // out dx, ax
		0xfc,       // cld
		0xf3, 0x6e, // rep outsb
		0xb9, 4, 0, 0, 0, // mov ecx, 4
		0x66, 0xba, 0x80, 0, // mov dx, 0x80
		0xf3, 0x6c, // rep insb
		0xc6, 0x04, 0x25, 0, 0x70, 0, 0, 1, // mov byte [counter], 1
		0xeb, 0xfe,
	)
	copy(g.mem[dataAt:], "xyz")
	g.ok(g.Resume())
	eventually(t, "the guest is done", func() bool { return g.count() == 1 })
	g.ok(g.Park())
	want := []byte{0xef, 0xbe, 'x', 'y', 'z', 0xa5, 0xa6, 0xa7, 0xa8}
	if !bytes.Equal(out, want) {
		t.Errorf("the bus saw % x, want % x", out, want)
	}
	if got := g.mem[dataAt+0x100:][:4]; !bytes.Equal(got, want[5:]) {
		t.Errorf("the guest read % x, want % x", got, want[5:])
	}
	n := g.Counters().PIO.Load()
	if m := map[string]uint64{}; n < 4 || n > 9 {
		t.Errorf("%d port exits counted, want 4 to 9", n)
	} else if g.Counters().Add(m); m["exit_pio_total"] != n || m["exit_mmio_total"] != 0 || m["exit_other_total"] != 0 {
		t.Errorf("counters %v", m)
	}
}

func TestMemoryAccessesReachTheirBus(t *testing.T) {
	var wrote [][]byte
	mmio := busFunc(func(addr uint64, p []byte, write bool) {
		switch {
		case write && addr == mmioAt+8:
			wrote = append(wrote, bytes.Clone(p))
		case !write && addr == mmioAt+0x10 && len(p) == 4:
			copy(p, []byte{1, 2, 3, 4})
		default:
			t.Errorf("address %#x, %d bytes, write %v", addr, len(p), write)
		}
	})
	g := newGuest(t, nil, mmio, kvm.Regs{RBX: mmioAt},
		0x8b, 0x43, 0x10, // mov eax, [rbx+0x10]
		0x89, 0x43, 0x08, // mov [rbx+8], eax
		0x88, 0x43, 0x08, // mov [rbx+8], al
		0x48, 0x89, 0x43, 0x08, // mov [rbx+8], rax
		0xc6, 0x04, 0x25, 0, 0x70, 0, 0, 1, // mov byte [counter], 1
		0xeb, 0xfe,
	)
	g.ok(g.Resume())
	eventually(t, "the guest is done", func() bool { return g.count() == 1 })
	g.ok(g.Park())
	want := [][]byte{{1, 2, 3, 4}, {1}, {1, 2, 3, 4, 0, 0, 0, 0}}
	if len(wrote) != 3 || !bytes.Equal(wrote[0], want[0]) || !bytes.Equal(wrote[1], want[1]) || !bytes.Equal(wrote[2], want[2]) {
		t.Errorf("the bus saw % x, want % x", wrote, want)
	}
	if n := g.Counters().MMIO.Load(); n != 4 {
		t.Errorf("%d MMIO exits counted, want 4", n)
	}
}

// TestParkSettlesStringInstructions parks a guest in the middle of rep outsb
// again and again: what the registers say must be what the bus has seen.
func TestParkSettlesStringInstructions(t *testing.T) {
	const length = 64
	var seen struct{ n, bad atomic.Uint64 }
	pio := busFunc(func(_ uint64, p []byte, _ bool) {
		for _, b := range p {
			if n := seen.n.Add(1) - 1; b != byte(n%length) {
				seen.bad.Add(1)
			}
		}
	})
	g := newGuest(t, pio, nil, kvm.Regs{RDX: 0xe9},
		0xfc,                         // cld
		0xbe, 0x00, 0x60, 0x00, 0x00, // mov esi, dataAt
		0xb9, length, 0, 0, 0, // mov ecx, length
		0xf3, 0x6e, // rep outsb
		0xeb, 0xf2, // jmp to mov esi
	)
	for i := range length {
		g.mem[dataAt+i] = byte(i)
	}
	g.ok(g.Resume())
	inside := 0
	for range 300 {
		g.ok(g.Park())
		r := g.regs()
		n := seen.n.Load()
		if r.RIP == codeAt+11 { // at rep outsb
			if done := length - r.RCX; r.RCX > length || n%length != done%length || r.RSI != dataAt+done {
				t.Fatalf("%d bytes seen, but rcx is %d and rsi %#x", n, r.RCX, r.RSI)
			}
			if r.RCX != 0 && r.RCX != length {
				inside++
			}
		}
		g.ok(g.Resume())
		eventually(t, "the guest goes on", func() bool { return seen.n.Load() > n })
	}
	if seen.bad.Load() != 0 {
		t.Errorf("%d of %d bytes were lost or repeated", seen.bad.Load(), seen.n.Load())
	}
	t.Logf("%d of 300 parks met the instruction half done; %d bytes", inside, seen.n.Load())
}

// TestParkSettlesStringReadsOfMemory is the same for a rep movsb from MMIO,
// where a byte that was read must reach RAM exactly once.
func TestParkSettlesStringReadsOfMemory(t *testing.T) {
	const length = 64
	var reads atomic.Uint64
	mmio := busFunc(func(addr uint64, p []byte, write bool) {
		if write {
			t.Errorf("write at %#x", addr)
		}
		for i := range p {
			p[i] = byte(addr) + byte(i) ^ 0x5a
		}
		reads.Add(uint64(len(p)))
	})
	g := newGuest(t, nil, mmio, kvm.Regs{},
		0xfc,                         // cld
		0xbe, 0x00, 0x00, 0xc0, 0x00, // mov esi, mmioAt
		0xbf, 0x00, 0x60, 0x00, 0x00, // mov edi, dataAt
		0xb9, length, 0, 0, 0, // mov ecx, length
		0xf3, 0xa4, // rep movsb
		0xeb, 0xed, // jmp to mov esi
	)
	g.ok(g.Resume())
	for range 200 {
		g.ok(g.Park())
		r, n := g.regs(), reads.Load()
		if r.RIP == codeAt+16 && r.RCX <= length {
			done := length - r.RCX
			if n%length != done%length || r.RSI != mmioAt+done || r.RDI != dataAt+done {
				t.Fatalf("%d bytes read, but rcx is %d, rsi %#x, rdi %#x", n, r.RCX, r.RSI, r.RDI)
			}
			for i := range done {
				if g.mem[dataAt+i] != byte(i)^0x5a {
					t.Fatalf("byte %d of %d is %#x", i, done, g.mem[dataAt+i])
				}
			}
			clear(g.mem[dataAt:][:done])
			for i := range done { // what follows must not depend on our clearing
				g.mem[dataAt+i] = byte(i) ^ 0x5a
			}
		}
		g.ok(g.Resume())
		eventually(t, "the guest goes on", func() bool { return reads.Load() > n })
	}
}

func TestTripleFaultIsReportedOnce(t *testing.T) {
	g := newGuest(t, nil, nil, kvm.Regs{}, 0x0f, 0x0b) // ud2, without any handler
	g.ok(g.Resume())
	if e := <-g.events; e.Kind != vcpu.TripleFault || e.Index != 0 || e.Err != nil {
		t.Errorf("event %+v", e)
	}
	// A machine that is paused and resumed now must not run what a reset CPU
	// would.
	g.ok(g.Park())
	g.ok(g.Resume())
	g.regs()
	select {
	case e := <-g.events:
		t.Errorf("a second event: %+v", e)
	default:
	}
	if n := g.Counters().Other.Load(); n != 1 {
		t.Errorf("%d exits counted as other, want 1", n)
	}
}

func TestCodeThatKVMCannotRunIsAFailure(t *testing.T) {
	vm, _ := newVM(t)
	events := make(chan vcpu.Event, 1)
	v, err := vcpu.Start(vm, vcpu.Options{
		PIO: unwanted(t, "port"), MMIO: unwanted(t, "memory"), Event: func(e vcpu.Event) { events <- e },
		Setup: func(c *kvm.VCPU) error {
			s, err := c.Sregs()
			if err != nil {
				return err
			}
			code := kvm.Segment{Limit: 0xffffffff, Selector: 8, Type: 0xb, Present: 1, DB: 1, S: 1, G: 1}
			data := code
			data.Selector, data.Type = 16, 3
			s.CS, s.DS, s.ES, s.FS, s.GS, s.SS = code, data, data, data, data, data
			s.CR0 |= 1
			if err := c.SetSregs(&s); err != nil {
				return err
			}
			return c.SetRegs(&kvm.Regs{RIP: 0x800000, RSP: 0x8000, RFLAGS: 2}) // no memory there
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Stop()
	if err := v.Resume(); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.Kind != vcpu.Failure || e.Err == nil {
		t.Errorf("event %+v", e)
	} else {
		t.Log(e.Err)
	}
}

// TestNoRequestIsLost has four goroutines ask for everything at once.
func TestNoRequestIsLost(t *testing.T) {
	g := newGuest(t, nil, nil, kvm.Regs{}, spin...)
	g.ok(g.Resume())
	const callers, rounds = 4, 250
	var done atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range rounds {
				for _, err := range []error{g.Park(), g.Do(func(*kvm.VCPU) error { done.Add(1); return nil }), g.Resume()} {
					if err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if n := done.Load(); n != callers*rounds {
		t.Errorf("%d of %d requests were served", n, callers*rounds)
	}
	at := g.count()
	eventually(t, "the guest runs after the last Resume", func() bool { return g.count() != at })
}

func TestDoReturnsItsError(t *testing.T) {
	g := newGuest(t, nil, nil, kvm.Regs{}, spin...)
	want := errors.New("no")
	if err := g.Do(func(*kvm.VCPU) error { return want }); !errors.Is(err, want) {
		t.Errorf("Do: %v, want %v", err, want)
	}
}

func TestStopEndsTheThreadFromAnyState(t *testing.T) {
	for _, state := range []string{"parked", "running", "over"} {
		t.Run(state, func(t *testing.T) {
			code := spin
			if state == "over" {
				code = []byte{0x0f, 0x0b}
			}
			g := newGuest(t, nil, nil, kvm.Regs{}, code...)
			if state != "parked" {
				g.ok(g.Resume())
			}
			if state == "over" {
				<-g.events
			}
			var wg sync.WaitGroup
			for range 3 { // at once, and again
				wg.Go(g.Stop)
			}
			wg.Wait()
			g.Stop()
			eventually(t, "the vCPU's thread is gone", g.threadGone)
			for name, err := range map[string]error{
				"Resume": g.Resume(), "Park": g.Park(), "Do": g.Do(func(*kvm.VCPU) error { return nil }),
			} {
				if !errors.Is(err, vcpu.ErrStopped) {
					t.Errorf("%s after Stop: %v", name, err)
				}
			}
		})
	}
}

func TestAFailedSetupLeavesNothing(t *testing.T) {
	vm, _ := newVM(t)
	want := errors.New("unfit")
	if v, err := vcpu.Start(vm, vcpu.Options{Setup: func(*kvm.VCPU) error { return want }}); !errors.Is(err, want) || v != nil {
		t.Errorf("Start: %v, %v", v, err)
	}
	ok := vcpu.Options{PIO: unwanted(t, "port"), MMIO: unwanted(t, "memory"), Index: 1}
	v, err := vcpu.Start(vm, ok)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Stop()
	if _, err := vcpu.Start(vm, ok); err == nil {
		t.Error("two vCPUs with one index")
	}
	if v.Index() != 1 || v.TID() == 0 {
		t.Errorf("index %d, thread %d", v.Index(), v.TID())
	}
}
