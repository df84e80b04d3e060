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

// over makes a snapshot of g that holds what differs from base, with a disk.
func over(t *testing.T, s *snapshots.Store, g *memory.Guest, name, base string) {
	t.Helper()
	p, err := s.Create(name, false, "")
	if err != nil {
		t.Fatal(err)
	}
	d, err := workload.Description{
		Config: &workload.Config{Name: name, Spec: &specs.Spec{Process: &specs.Process{}}, VM: workload.VM{Disks: []workload.Disk{{}}}},
		Disks:  []workload.SnapshotDisk{{Name: "disk"}},
	}.Describe()
	if err != nil {
		t.Fatal(err)
	}
	c := snapshot.Content{Regions: g.Regions(), MemoryFD: g.FD(), Description: d}
	if base != "" {
		of, err := s.Get(base)
		if err != nil {
			t.Fatal(err)
		}
		defer of.Close()
		chain, err := s.Chain(of)
		if err != nil {
			t.Fatal(err)
		}
		defer chain.Close()
		id := of.ID()
		c.Base = &id
		if c.Dirty, err = snapshot.Differ(t.Context(), chain, c.Regions, c.MemoryFD, snapshot.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := snapshot.Write(t.Context(), filepath.Join(p.Dir(), workload.SnapshotFile), c, snapshot.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.Dir(), "disk"), []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
}

func TestDifferencesNeedTheirBasesUntilTheyAreMerged(t *testing.T) {
	s, _ := open(t)
	g, err := memory.New(memory.Options{Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for i, name := range []string{"a", "b", "c"} {
		if err := g.WriteAt([]byte{byte(i) + 1}, memory.GPA(i)<<12); err != nil {
			t.Fatal(err)
		}
		base := ""
		if i > 0 {
			base = string('a' + rune(i-1))
		}
		over(t, s, g, name, base)
	}
	top, err := s.Get("c")
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	if n, err := s.Bases(top); err != nil || !slices.Equal(n, []string{"b", "a"}) {
		t.Errorf("c is over %q, %v", n, err)
	}
	if n, _ := top.Pages(); n != 1 {
		t.Errorf("it stores %d pages, one has changed", n)
	}
	for _, name := range []string{"a", "b"} {
		if err := s.Remove(name); !errors.Is(err, snapshots.ErrNeeded) {
			t.Errorf("removing %s: %v", name, err)
		}
	}
	p, err := s.Create("whole", false, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Merge(t.Context(), top); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"c", "b", "a"} {
		if err := s.Remove(name); err != nil {
			t.Errorf("removing %s: %v", name, err)
		}
	}
	if _, err := s.Bases(top); !errors.Is(err, snapshots.ErrNotFound) {
		t.Errorf("without its base: %v", err)
	}
	whole, err := s.Get("whole")
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	to, err := memory.New(memory.Options{Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := whole.ReadInto(t.Context(), to.Regions(), snapshot.Options{}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(to.Regions()[0].Bytes, g.Regions()[0].Bytes) {
		t.Error("the memory is another")
	}
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(s.File("whole")), "disk")); err != nil || string(b) != "c" {
		t.Errorf("its disk is %q, %v", b, err)
	}
}
