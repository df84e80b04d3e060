package machine

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/hvctl/hvctl/virtio"
)

var (
	_ handoff.Machine   = (*Machine)(nil)
	_ handoff.Successor = (*Machine)(nil)
)

// memoryFile is a descriptor of m's memory of its own.
func (m *Machine) memoryFile(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.Dup(m.MemoryFD())
	must(t, err)
	return os.NewFile(uintptr(fd), "memory")
}

// give hands m over to a machine that make builds; it returns that one once it
// has taken the guest, or why m kept it.
func give(t testing.TB, m *Machine, heir func(*os.File) handoff.Successor, kill func() error) (handoff.Report, error) {
	t.Helper()
	here, there, err := handoff.Pair()
	must(t, err)
	defer here.Close()
	l, err := handoff.NewLink(here)
	must(t, err)
	defer l.Close()
	took := make(chan struct{})
	go func() {
		defer close(took)
		defer there.Close()
		l, err := handoff.NewLink(there)
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		_ = handoff.Take(context.Background(), l, func(_ context.Context, o handoff.Offer) (handoff.Successor, error) {
			return heir(o.Files[0].File), nil
		}, nil)
	}()
	mem := m.memoryFile(t)
	defer mem.Close()
	r, err := handoff.Give(t.Context(), l, m, handoff.Offer{Description: []byte("{}"), Files: []handoff.File{{Name: "memory", File: mem}}}, handoff.Options{Kill: kill})
	<-took
	return r, err
}

// TestAGuestGoesOnInAMachineOnTheSameMemory hands a guest of two processors from
// machine to machine. Each keeps a count in a register and stores it: a lost or
// repeated instruction, or memory that is not the same, would show.
func TestAGuestGoesOnInAMachineOnTheSameMemory(t *testing.T) {
	for _, tr := range []Transport{MMIO, PCI} {
		t.Run(string(tr), func(t *testing.T) {
			c := func() Config {
				return Config{
					CPUs: 2, MemoryBytes: 1 << 30, Transport: tr, SerialOut: &bytes.Buffer{},
					Devices: []Device{{Kind: "rng", Args: virtio.Args{ID: "rng0"}}},
				}
			}
			m := newMachine(t, c(), pair...)
			must(t, m.mem.WriteAt(apCode, apCodeAt))
			m.start(t, t.Context())
			least := time.Hour
			for range 10 {
				a, b := m.word(t, counterAt), m.word(t, apCountAt)
				eventually(t, "both processors count", func() bool {
					return m.word(t, counterAt) != a && m.word(t, apCountAt) != b
				})
				var n *Machine
				r, err := give(t, m, func(mem *os.File) handoff.Successor {
					h := c()
					h.Restore = &Restore{Memory: mem, FollowTime: true}
					n = blank(t, h)
					n.start(t, t.Context())
					return n
				}, nil)
				must(t, err)
				least = min(least, time.Duration(r.BlackoutNs))
				if !m.Paused() {
					t.Fatal("the guest runs in the old machine, too")
				}
				must(t, n.Pause(t.Context()))
				if first, second := n.word(t, counterAt), n.word(t, secondAt); first-second > 1 {
					t.Errorf("the counts are %d and %d", first, second)
				}
				must(t, n.Resume(t.Context()))
				must(t, m.Close())
				m = n
			}
			t.Logf("stood still for %v, the least of ten", least)
		})
	}
}

// refusing is a machine that does not take the state.
type refusing struct{ *Machine }

func (refusing) LoadState([]state.Section) error { return errors.New("not on this host") }

func TestAGuestThatIsNotTakenOverGoesOnWhereItWas(t *testing.T) {
	c := Config{MemoryBytes: 16 << 20}
	m := newMachine(t, c, pair...)
	m.start(t, t.Context())
	_, err := give(t, m, func(mem *os.File) handoff.Successor {
		h := c
		h.Restore = &Restore{Memory: mem}
		return refusing{blank(t, h)}
	}, nil)
	if err == nil || !strings.Contains(err.Error(), "not on this host") {
		t.Errorf("Give: %v", err)
	}
	a := m.word(t, counterAt)
	eventually(t, "the guest counts on", func() bool { return m.word(t, counterAt) != a })
}

func TestMemoryOfAnotherSizeIsNotAdopted(t *testing.T) {
	m := newMachine(t, Config{MemoryBytes: 16 << 20}, pair...)
	f := m.memoryFile(t)
	defer f.Close()
	n, err := New(Config{MemoryBytes: 32 << 20, Restore: &Restore{Memory: f}})
	if err == nil {
		_ = n.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "16777216") {
		t.Errorf("New: %v", err)
	}
}
