package snapshot_test

import (
	"errors"
	"io/fs"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

// A machine that writes all the time, with a log of what it wrote, is stored as
// it was at the moment when it stopped.
func TestARunningMachineIsStoredAsItWasWhenItStopped(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 7))
		g, path := newGuest(t), filepath.Join(t.TempDir(), "snapshot")
		scribble(t, g, rng, 300)
		c := content(g)
		c.Sections = nil
		var dirty [][]uint64
		stopped, copied := 0, 0
		c.Live = &snapshot.Live{
			Stop: func() ([][]uint64, []state.Section, error) {
				stopped++
				// What was written behind the first pass: new pages, changed
				// ones, and some that become zero.
				dirty = scribble(t, g, rng, 200)
				return dirty, []state.Section{section("vcpu/0", `{"rip":5}`)}, nil
			},
			Copied: func() {
				copied++
				if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
					t.Error("it has its name before the machine may go on")
				}
			},
		}
		rep := write(t, path, c)
		if stopped != 1 || copied != 1 {
			t.Fatalf("stopped %d times, copied %d times", stopped, copied)
		}
		s, err := snapshot.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), snapshot.Options{}); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if n, _ := s.Pages(); n != rep.StoredPages {
			t.Errorf("seed %d: %d pages stored, the report says %d", seed, n, rep.StoredPages)
		}
		to := newGuest(t)
		if err := s.ReadInto(t.Context(), to.Regions(), snapshot.Options{}); err != nil {
			t.Fatal(err)
		}
		same(t, g, to)
		if len(s.Sections()) != 1 || string(s.Sections()[0].Payload) != `{"rip":5}` {
			t.Errorf("sections %v", s.Sections())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Diffs of a machine that runs, over one another, found by comparing.
func TestDiffsOfARunningMachineRestoreWhatItWas(t *testing.T) {
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 8))
		g, dir := newGuest(t), t.TempDir()
		scribble(t, g, rng, 300)
		file := func(n int) string { return filepath.Join(dir, strconv.Itoa(n)) }
		write(t, file(0), content(g))
		find := map[snapshot.Ref]string{}
		for n := 1; n < 4; n++ {
			below, err := snapshot.OpenChain(file(n-1), func(r snapshot.Ref) (string, error) { return find[r], nil })
			if err != nil {
				t.Fatal(err)
			}
			id := below.Top().ID()
			find[id] = file(n - 1)
			scribble(t, g, rng, 40)
			c := content(g)
			c.Base = &id
			if c.Dirty, err = snapshot.Differ(t.Context(), below, g.Regions(), g.FD(), snapshot.Options{}); err != nil {
				t.Fatal(err)
			}
			var behind [][]uint64
			c.Live = &snapshot.Live{
				Stop: func() ([][]uint64, []state.Section, error) {
					behind = scribble(t, g, rng, 60)
					return behind, nil, nil
				},
				Copied: func() {},
			}
			if rep := write(t, file(n), c); rep.StoredPages > 100 {
				t.Errorf("a diff of at most 100 pages stores %d", rep.StoredPages)
			}
			if err := below.Close(); err != nil {
				t.Error(err)
			}
			chain, err := snapshot.OpenChain(file(n), func(r snapshot.Ref) (string, error) { return find[r], nil })
			if err != nil {
				t.Fatal(err)
			}
			if err := chain.Verify(t.Context(), snapshot.Options{}); err != nil {
				t.Error(err)
			}
			var open []*os.File // the same of open files, one more than are needed
			for at := n; at >= -1; at-- {
				f, err := os.Open(file(max(at, 0)))
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, f)
			}
			again, err := snapshot.OpenFiles(slices.Clone(open))
			if err != nil || again.Top().ID() != chain.Top().ID() {
				t.Fatalf("of open files: %v", err)
			}
			if err := again.Close(); err != nil {
				t.Error(err)
			}
			for _, f := range open {
				if _, err := f.Stat(); err == nil {
					t.Errorf("%s stays open", f.Name())
				}
			}
			if c, err := snapshot.OpenFiles(nil); !errors.Is(err, snapshot.ErrChain) {
				t.Errorf("of no file: %v, %v", c, err)
			}
			to := newGuest(t)
			if err := chain.ReadInto(t.Context(), to.Regions(), snapshot.Options{}); err != nil {
				t.Fatal(err)
			}
			same(t, g, to)
			none, err := snapshot.Differ(t.Context(), chain, to.Regions(), to.FD(), snapshot.Options{})
			if err != nil || popcount(none) != 0 {
				t.Errorf("%d pages differ from themselves, %v", popcount(none), err)
			}
			if err := chain.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func popcount(all [][]uint64) (n int) {
	for _, b := range all {
		for _, w := range b {
			n += bits.OnesCount64(w)
		}
	}
	return n
}

func TestARunningMachineThatDoesNotStopLeavesNothing(t *testing.T) {
	g, dir := newGuest(t), t.TempDir()
	c := content(g)
	no := errors.New("no")
	c.Live = &snapshot.Live{
		Stop:   func() ([][]uint64, []state.Section, error) { return nil, nil, no },
		Copied: func() { t.Error("copied") },
	}
	if _, err := snapshot.Write(t.Context(), filepath.Join(dir, "snapshot"), c, snapshot.Options{}); !errors.Is(err, no) {
		t.Errorf("%v", err)
	}
	c.Live.Stop = func() ([][]uint64, []state.Section, error) { return make([][]uint64, 1), nil, nil }
	if _, err := snapshot.Write(t.Context(), filepath.Join(dir, "snapshot"), c, snapshot.Options{}); err == nil {
		t.Error("bitmaps of another machine were taken")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
