package snapshots_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/snapshots"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

// fill writes a snapshot file of a machine without state.
func fill(t *testing.T, dir string) {
	t.Helper()
	g, err := memory.New(memory.Options{Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	d, err := workload.Description{Config: &workload.Config{Name: "web", Spec: &specs.Spec{Process: &specs.Process{}}}}.Describe()
	if err != nil {
		t.Fatal(err)
	}
	c := snapshot.Content{Regions: g.Regions(), MemoryFD: g.FD(), Description: d}
	if _, err := snapshot.Write(t.Context(), filepath.Join(dir, workload.SnapshotFile), c, snapshot.Options{}); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T) (*snapshots.Store, string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "snapshots")
	s, err := snapshots.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s, root
}

func create(t *testing.T, s *snapshots.Store, name string, replace bool) {
	t.Helper()
	p, err := s.Create(name, replace, "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Abort()
	fill(t, p.Dir())
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
}

func TestASnapshotHasItsNameWhenItIsComplete(t *testing.T) {
	s, root := open(t)
	if n, err := s.Names(); err != nil || len(n) != 0 {
		t.Fatalf("an empty store has %q, %v", n, err)
	}
	p, err := s.Create("one", false, "")
	if err != nil {
		t.Fatal(err)
	}
	fill(t, p.Dir())
	if _, err := s.Get("one"); !errors.Is(err, snapshots.ErrNotFound) {
		t.Errorf("before Commit: %v", err)
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	p.Abort()
	create(t, s, "two", false)
	got, err := s.Get("one")
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if got.Description.Config.Name != "web" {
		t.Errorf("description %+v", got.Description)
	}
	if n, err := s.Names(); err != nil || !slices.Equal(n, []string{"one", "two"}) {
		t.Errorf("names %q, %v", n, err)
	}
	if _, err := s.Create("one", false, ""); !errors.Is(err, snapshots.ErrExists) {
		t.Errorf("a second one: %v", err)
	}
	create(t, s, "one", true)
	if err := s.Remove("one"); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{s.Remove("one"), func() error { _, err := s.Get("one"); return err }()} {
		if !errors.Is(err, snapshots.ErrNotFound) {
			t.Errorf("after Remove: %v", err)
		}
	}
	p, err = s.Create("three", false, "")
	if err != nil {
		t.Fatal(err)
	}
	p.Abort()
	left, err := os.ReadDir(root)
	if err != nil || len(left) != 1 || left[0].Name() != "two" {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestTwoOfOneNameDoNotMix(t *testing.T) {
	s, _ := open(t)
	a, err := s.Create("x", false, "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Create("x", false, "")
	if err != nil {
		t.Fatal(err)
	}
	fill(t, a.Dir())
	fill(t, b.Dir())
	if err := a.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(); !errors.Is(err, snapshots.ErrExists) {
		t.Errorf("the second commit: %v", err)
	}
	b.Abort()
}

func TestNamesThatArePathsAreRefused(t *testing.T) {
	s, _ := open(t)
	for _, name := range []string{"", ".", "..", "a/b", "/etc", ".new-1", "-f", "a b", "a\x00"} {
		_, err := s.Create(name, true, "")
		if _, gerr := s.Get(name); !errors.Is(err, snapshots.ErrBadName) || !errors.Is(gerr, snapshots.ErrBadName) || !errors.Is(s.Remove(name), snapshots.ErrBadName) {
			t.Errorf("%q: %v, %v", name, err, gerr)
		}
	}
}
