package snapshot_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

const page = memory.PageSize

// newGuest makes 6 MiB and a bit of RAM in two regions, odd in every way: the
// first ends inside a chunk, the second begins above 4 GiB.
func newGuest(t testing.TB) *memory.Guest {
	t.Helper()
	g, err := memory.New(memory.Options{Regions: []memory.Span{{GPA: 0, Size: 4<<20 + 3*page}, {GPA: 4 << 30, Size: 2 << 20}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// scribble writes n random pages (some of them zero) and returns the bitmaps.
func scribble(t testing.TB, g *memory.Guest, rng *rand.Rand, n int) [][]uint64 {
	t.Helper()
	var dirty [][]uint64
	for _, r := range g.Regions() {
		dirty = append(dirty, make([]uint64, (r.Size/page+63)/64))
	}
	for range n {
		i := rng.IntN(len(dirty))
		r := g.Regions()[i]
		p := rng.Uint64N(r.Size / page)
		b := r.Bytes[p*page : (p+1)*page]
		if rng.IntN(4) == 0 {
			clear(b)
		} else {
			b[rng.IntN(page)] = byte(rng.IntN(255) + 1)
		}
		dirty[i][p/64] |= 1 << (p % 64)
	}
	return dirty
}

func section(path, payload string) state.Section {
	return state.Section{Path: path, Version: 1, Payload: json.RawMessage(payload), CRC: crc32.Checksum([]byte(payload), crc32.MakeTable(crc32.Castagnoli))}
}

func content(g *memory.Guest) snapshot.Content {
	return snapshot.Content{
		Regions: g.Regions(), MemoryFD: g.FD(), Description: json.RawMessage(`{"cpus":2}`),
		Sections: []state.Section{section("vcpu/0", `{"rip":4096}`), section("serial", `{}`)},
	}
}

func write(t testing.TB, path string, c snapshot.Content) snapshot.Report {
	t.Helper()
	r, err := snapshot.Write(t.Context(), path, c, snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func same(t *testing.T, want, got *memory.Guest) {
	t.Helper()
	for i, r := range want.Regions() {
		if !bytes.Equal(r.Bytes, got.Regions()[i].Bytes) {
			t.Errorf("region %v differs", r.GPA)
		}
	}
}

func TestFullSnapshotGivesEverythingBack(t *testing.T) {
	for _, fd := range []bool{true, false} {
		t.Run(fmt.Sprintf("memfd %v", fd), func(t *testing.T) {
			g, path := newGuest(t), filepath.Join(t.TempDir(), "snapshot")
			scribble(t, g, rand.New(rand.NewPCG(1, 2)), 300)
			c := content(g)
			if !fd {
				c.MemoryFD = -1
			}
			rep := write(t, path, c)
			if rep.StoredPages == 0 || rep.StoredPages > 300 || fd == (rep.HolePages == 0) {
				t.Errorf("report %+v", rep)
			}
			s, err := snapshot.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			if err := s.Verify(t.Context(), snapshot.Options{}); err != nil {
				t.Error(err)
			}
			if string(s.Description()) != `{"cpus":2}` || len(s.Sections()) != 2 || string(s.Sections()[0].Payload) != `{"rip":4096}` || s.ID() != rep.ID {
				t.Errorf("description %s, sections %v", s.Description(), s.Sections())
			}
			if n, _ := s.Pages(); n != rep.StoredPages {
				t.Errorf("%d pages stored, the report says %d", n, rep.StoredPages)
			}
			to := newGuest(t)
			if err := s.ReadInto(t.Context(), to.Regions(), snapshot.Options{Workers: 3}); err != nil {
				t.Fatal(err)
			}
			same(t, g, to)
		})
	}
}

func TestHolesStayHoles(t *testing.T) {
	g, path := newGuest(t), filepath.Join(t.TempDir(), "snapshot")
	g.Regions()[1].Bytes[5*page] = 1
	before := blocks(t, fmt.Sprintf("/proc/self/fd/%d", g.FD()))
	rep := write(t, path, content(g))
	if rep.StoredPages != 1 || rep.ZeroPages != 0 {
		t.Errorf("report %+v, want one stored page and no page looked at in vain", rep)
	}
	if after := blocks(t, fmt.Sprintf("/proc/self/fd/%d", g.FD())); after != before {
		t.Errorf("writing the snapshot made the guest's RAM grow from %d to %d blocks", before, after)
	}
	if n := blocks(t, path) * 512; n > 256<<10 {
		t.Errorf("a snapshot with one page takes %d bytes", n)
	}
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

func TestRegionsCanBeMapped(t *testing.T) {
	g, path := newGuest(t), filepath.Join(t.TempDir(), "snapshot")
	scribble(t, g, rand.New(rand.NewPCG(3, 4)), 100)
	write(t, path, content(g))
	s, err := snapshot.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for i, r := range s.Regions() {
		b, err := unix.Mmap(int(s.File().Fd()), int64(r.Offset), int(r.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, g.Regions()[i].Bytes) {
			t.Errorf("mapped region %v differs", r.GPA)
		}
		b[0]++ // a private mapping of a file we may only read is writable
		if err := unix.Munmap(b); err != nil {
			t.Error(err)
		}
	}
	if err := s.Verify(t.Context(), snapshot.Options{}); err != nil {
		t.Errorf("after writing to the mapping: %v", err)
	}
}

func TestChainAndMergeGiveTheNewestMemory(t *testing.T) {
	dir, g := t.TempDir(), newGuest(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	paths := map[snapshot.Ref]string{}
	var top string
	scribble(t, g, rng, 400)
	var base *snapshot.Ref
	for i := range 5 {
		c := content(g)
		c.Base = base
		if base != nil {
			c.Dirty = scribble(t, g, rng, 200)
			c.Sections = append(c.Sections, section("round", fmt.Sprint(i)))
		}
		top = filepath.Join(dir, fmt.Sprint(i))
		rep := write(t, top, c)
		paths[rep.ID], base = top, &rep.ID
	}
	c, err := snapshot.OpenChain(top, func(r snapshot.Ref) (string, error) { return paths[r], nil })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	to := newGuest(t)
	if err := errors.Join(c.Verify(t.Context(), snapshot.Options{}), c.ReadInto(t.Context(), to.Regions(), snapshot.Options{})); err != nil {
		t.Fatal(err)
	}
	same(t, g, to)

	merged := filepath.Join(dir, "merged")
	if _, err := snapshot.Merge(t.Context(), c, merged, snapshot.Options{}); err != nil {
		t.Fatal(err)
	}
	m, err := snapshot.OpenChain(merged, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	if last := m.Top().Sections()[2]; !m.Full() || string(last.Payload) != "4" {
		t.Errorf("merged: full %v, newest section %v", m.Full(), last)
	}
	to = newGuest(t)
	if err := errors.Join(m.Verify(t.Context(), snapshot.Options{}), m.ReadInto(t.Context(), to.Regions(), snapshot.Options{})); err != nil {
		t.Fatal(err)
	}
	same(t, g, to)
}

func TestChainRefusesWhatDoesNotFit(t *testing.T) {
	dir, g := t.TempDir(), newGuest(t)
	full, other, diff := filepath.Join(dir, "full"), filepath.Join(dir, "other"), filepath.Join(dir, "diff")
	base := write(t, full, content(g)).ID
	g.Regions()[0].Bytes[0] = 1
	write(t, other, content(g))
	c := content(g)
	c.Base, c.Dirty = &base, [][]uint64{make([]uint64, 17), make([]uint64, 8)}
	write(t, diff, c)
	missing := errors.New("no such snapshot")
	for _, tc := range []struct {
		name string
		find func(snapshot.Ref) (string, error)
		want string
	}{
		{"missing base", func(snapshot.Ref) (string, error) { return "", missing }, "no such snapshot"},
		{"another base", func(snapshot.Ref) (string, error) { return other, nil }, "needs the base"},
		{"itself", func(snapshot.Ref) (string, error) { return diff, nil }, "needs the base"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := snapshot.OpenChain(diff, tc.find)
			if !errors.Is(err, snapshot.ErrChain) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
	s, err := snapshot.Open(diff)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.ReadInto(t.Context(), g.Regions(), snapshot.Options{}); !errors.Is(err, snapshot.ErrChain) {
		t.Errorf("a diff alone was restored: %v", err)
	}
	small, err := memory.New(memory.Options{Size: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = small.Close() }()
	f, err := snapshot.Open(full)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.ReadInto(t.Context(), small.Regions(), snapshot.Options{}); !errors.Is(err, snapshot.ErrChain) {
		t.Errorf("restored into other RAM: %v", err)
	}
}

func TestWriteLeavesNothingWhenItFails(t *testing.T) {
	g := newGuest(t)
	g.Regions()[0].Bytes[0] = 1
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	two := content(g)
	two.Sections = append(two.Sections, two.Sections[0])
	text := content(g)
	text.Description = json.RawMessage("no JSON")
	beyond := content(g)
	beyond.Base, beyond.Dirty = &snapshot.Ref{1}, [][]uint64{make([]uint64, 17), make([]uint64, 8)}
	beyond.Dirty[0][16] = 1 << 60
	for _, tc := range []struct {
		name    string
		ctx     context.Context
		content snapshot.Content
	}{
		{"cancelled", cancelled, content(g)},
		{"same section twice", t.Context(), two},
		{"description no JSON", t.Context(), text},
		{"dirty page beyond the end", t.Context(), beyond},
		{"no RAM", t.Context(), snapshot.Content{Description: json.RawMessage("{}")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := snapshot.Write(tc.ctx, filepath.Join(dir, "s"), tc.content, snapshot.Options{}); err == nil {
				t.Error("no error")
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	t.Run("name taken", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "s")
		first := write(t, path, content(g))
		if _, err := snapshot.Write(t.Context(), path, content(g), snapshot.Options{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("error %v", err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("left behind: %v", left)
		}
		s, err := snapshot.Open(path)
		if err != nil || s.ID() != first.ID {
			t.Fatalf("the first snapshot was touched: %v", err)
		}
		_ = s.Close()
	})
}

func BenchmarkWrite(b *testing.B) {
	g, err := memory.New(memory.Options{Size: 256 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = g.Close() }()
	for p := 0; p < 256<<20; p += page {
		g.Regions()[0].Bytes[p] = 1
	}
	dir := b.TempDir()
	b.SetBytes(256 << 20)
	for b.Loop() {
		path := filepath.Join(dir, "s")
		write(b, path, content(g))
		_ = os.Remove(path)
	}
}
