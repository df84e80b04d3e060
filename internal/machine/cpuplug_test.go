package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/acpi"
	"github.com/hvctl/hvctl/internal/state"
)

// inCPUs and outCPUs are code that reads a word of the controller into EAX, and
// writes one.
func inCPUs(off byte) []byte { return []byte{0x66, 0xba, portCPUs&0xff + off, portCPUs >> 8, 0xed} }

var outCPUs = []byte{0x66, 0xba, portCPUs&0xff + acpi.CPUHotplugEject, portCPUs >> 8, 0xef}

// cpuGuest does what a guest's ACPI and kernel do: it starts processors that have
// come, which then count (apCode), and gives back those that it is asked for, having
// stopped them.
var cpuGuest = func() []byte {
	var (
		init = []byte{0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0x0c, 0x00} // mov [ICR], INIT to all others
		sipi = []byte{0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x08, 0x46, 0x0c, 0x00} // mov [ICR], SIPI, vector 8
	)
	unless := func(body ...[]byte) []byte { // test eax, eax; jz over it
		b := slices.Concat(body...)
		return append([]byte{0x85, 0xc0, 0x74, byte(len(b))}, b...)
	}
	loop := slices.Concat(
		[]byte{0xff, 0x05}, le32(counterAt), // inc dword [counterAt]
		inCPUs(acpi.CPUHotplugUp), unless(init, sipi),
		inCPUs(acpi.CPUHotplugDown), unless(init, outCPUs))
	return append(loop, 0xe9, 0, 0, 0, 0)
}()

func init() { // the jump back to the start
	n := len(cpuGuest)
	binary.LittleEndian.PutUint32(cpuGuest[n-4:], uint32(-n))
}

func newCPUGuest(t *testing.T, code []byte) *Machine {
	t.Helper()
	m := newMachine(t, Config{CPUs: 1, MaxCPUs: 3}, code...)
	must(t, m.mem.WriteAt(apCode, apCodeAt))
	m.start(t, t.Context())
	eventually(t, "the guest counts", func() bool { return m.counted(t) > 0 })
	return m
}

// counts waits until the second processor has counted.
func (m *Machine) counts(t *testing.T) {
	t.Helper()
	was := m.word(t, apCountAt)
	eventually(t, "the processor that came counts", func() bool { return m.word(t, apCountAt) != was })
}

func wantCPUs(t *testing.T, m *Machine, want int) {
	t.Helper()
	if now, most := m.CPUs(); now != want || most != 3 {
		t.Errorf("%d vCPUs of %d, want %d", now, most, want)
	}
}

func TestProcessorsComeAndGo(t *testing.T) {
	m := newCPUGuest(t, cpuGuest)
	wantCPUs(t, m, 1)
	for range 3 {
		must(t, m.SetCPUs(t.Context(), 2))
		wantCPUs(t, m, 2)
		m.counts(t)
		must(t, m.SetCPUs(t.Context(), 3))
		must(t, m.SetCPUs(t.Context(), 1))
		wantCPUs(t, m, 1)
		must(t, m.Pause(t.Context())) // by then those that went are reset
		must(t, m.mem.WriteAt(make([]byte, 4), apCountAt))
		must(t, m.Resume(t.Context()))
		was := m.counted(t)
		eventually(t, "the first one goes on", func() bool { return m.counted(t) > was+100 })
		if n := m.word(t, apCountAt); n != 0 {
			t.Errorf("a processor that was given back counted to %d", n)
		}
	}
	for n, want := range map[int]string{0: "made for 1 to 3", 4: "made for 1 to 3"} {
		if err := m.SetCPUs(t.Context(), n); !errors.Is(err, ErrPlug) || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", n, err)
		}
	}
	must(t, m.Pause(t.Context()))
	if err := m.SetCPUs(t.Context(), 2); !errors.Is(err, ErrPlug) || !strings.Contains(err.Error(), "paused") {
		t.Errorf("paused: %v", err)
	}
}

// A guest that starts processors that it was not given has them stand still.
func TestAProcessorThatWasNotPluggedInDoesNotRun(t *testing.T) {
	m := newMachine(t, Config{CPUs: 1, MaxCPUs: 2}, pair...)
	must(t, m.mem.WriteAt(apCode, apCodeAt))
	m.start(t, t.Context())
	eventually(t, "the guest counts", func() bool { return m.counted(t) > 1000 })
	if n := m.word(t, apCountAt); n != 0 {
		t.Errorf("it counted to %d", n)
	}
}

func TestAGuestThatDoesNotTakeAProcessor(t *testing.T) {
	m := newCPUGuest(t, spin)
	if err := m.SetCPUs(shortly(t), 2); !errors.Is(err, ErrUntaken) || !strings.Contains(err.Error(), "never looked") {
		t.Errorf("SetCPUs: %v", err)
	}
	wantCPUs(t, m, 1)
	up := func() uint32 { return m.cpuWord(acpi.CPUHotplugUp) }
	if v := up(); v != 0 {
		t.Errorf("told of %#x, which is gone", v)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.SetCPUs(ctx, 2) }()
	eventually(t, "the guest sees it", func() bool { return up() == 2 })
	cancel()
	if err := <-done; !errors.Is(err, ErrUntaken) || !strings.Contains(err.Error(), "cpuN/online") {
		t.Errorf("SetCPUs: %v", err)
	}
	wantCPUs(t, m, 2)
	if err := m.SetCPUs(shortly(t), 1); !errors.Is(err, ErrUntaken) || !strings.Contains(err.Error(), "never looked") {
		t.Errorf("SetCPUs: %v", err)
	}
	wantCPUs(t, m, 2)
	m.pio.Write(portCPUs+acpi.CPUHotplugEject, le32(2)) // unasked, as a guest may
	wantCPUs(t, m, 1)
}

func (m *Machine) cpuWord(off uint64) uint32 {
	var b [4]byte
	m.pio.Read(portCPUs+off, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

// A guest with a processor that came goes on in another machine, with it.
func TestProcessorsThatCameAreSaved(t *testing.T) {
	m := newCPUGuest(t, cpuGuest)
	must(t, m.SetCPUs(t.Context(), 2))
	m.counts(t)
	s := m.save(t)
	n := blank(t, Config{CPUs: 1, MaxCPUs: 3})
	n.restore(t, s)
	wantCPUs(t, n, 2)
	n.start(t, t.Context())
	must(t, n.Resume(t.Context()))
	n.counts(t)
	must(t, n.SetCPUs(t.Context(), 1))
	must(t, n.SetCPUs(t.Context(), 3))
	other := blank(t, Config{CPUs: 1, MaxCPUs: 2})
	if err := other.LoadState(s.sections); !errors.Is(err, ErrRestore) || !strings.Contains(err.Error(), "3 vCPUs") {
		t.Errorf("in a machine that can have fewer: %v", err)
	}
}

func TestSavedProcessorsAreJudged(t *testing.T) {
	for payload, ok := range map[string]bool{
		`{"present":5,"up":4,"down":0}`: true, `{"present":4,"up":0,"down":0}`: false, `{"present":9,"up":0,"down":0}`: false,
		`{"present":1,"up":2,"down":0}`: false, `{"present":3,"up":0,"down":1}`: false, `{"present":3,"up":0,"down":4}`: false,
	} {
		p := newCPUPlug(1, 3)
		if err := state.Load(sealed("cpus", 1, []byte(payload)), p); (err == nil) != ok {
			t.Errorf("%s: %v", payload, err)
		}
		if ok && (p.present != 5 || p.up != 4 || p.leavers() != 2) {
			t.Errorf("%s: %+v", payload, p)
		}
	}
}

// TestProcessorRegistersAtRandom drives the controller from both sides: what a model
// expects is what is read, and nothing else ever goes.
func TestProcessorRegistersAtRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const most = 40
	gone := 0
	p := newCPUPlug(3, most)
	p.raise, p.ejected = func() error { return nil }, func() { gone++ }
	present, up, down := uint64(7), uint64(0), uint64(0)
	for range 20000 {
		b := make([]byte, []int{4, 4, 4, 4, 1, 2, 8}[r.IntN(7)])
		off := uint64(r.IntN(acpi.CPUHotplugSize))
		if r.IntN(4) > 0 {
			off &^= 3
		}
		word := off % 8 / 4 * 32
		set := uint64(1)<<r.IntN(most) | uint64(1)<<r.IntN(most)
		proper := len(b) == 4 && off%4 == 0
		mask := uint64(0xffffffff) << word
		switch r.IntN(4) {
		case 0:
			set &^= present
			must(t, p.arrive(set))
			present, up = present|set, up|set
		case 1:
			must(t, p.ask(set&^1))
			down |= set & present &^ 1
		case 2:
			v := r.Uint64() & r.Uint64() & r.Uint64()
			copy(b, binary.LittleEndian.AppendUint64(nil, v))
			p.WriteAt(off, b)
			if proper && off >= acpi.CPUHotplugEject {
				out := v & 0xffffffff << word & present &^ 1
				present, up, down = present&^out, up&^out, down&^out
			}
		default:
			p.ReadAt(off, b)
			want := uint64(0)
			if proper {
				switch off &^ 7 {
				case acpi.CPUHotplugPresent:
					want = present & mask
				case acpi.CPUHotplugUp:
					want, up = up&mask, up&^mask
				case acpi.CPUHotplugDown:
					want, down = down&mask, down&^mask
				}
			}
			got := uint64(0)
			for i, x := range b {
				got |= uint64(x) << (8 * i)
			}
			if got != want>>word {
				t.Fatalf("%d bytes at %d: %#x, want %#x", len(b), off, got, want>>word)
			}
		}
		if p.present != present || p.up != up || p.down != down || present&1 == 0 {
			t.Fatalf("%#x %#x %#x, want %#x %#x %#x", p.present, p.up, p.down, present, up, down)
		}
	}
	if gone == 0 || bits.OnesCount64(p.leavers()) == 0 {
		t.Error("nothing was ever given back")
	}
}
