package memory_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/memory"
)

// imageFile has two regions, the second one first, with a hole between.
func imageFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for at, s := range map[int64]string{4096: "second", 16384: "first"} {
		if _, err := f.WriteAt([]byte(s), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(16384 + 8192); err != nil {
		t.Fatal(err)
	}
	return f
}

var imageRegions = []memory.Span{{GPA: 0, Size: 8192}, {GPA: 1 << 32, Size: 4096}}

func TestRAMFromAnImageIsACopyOnWrite(t *testing.T) {
	f := imageFile(t)
	o := memory.Options{Regions: imageRegions, From: &memory.Image{File: f, Offsets: []uint64{16384, 4096}}}
	a, b := newGuest(t, o), newGuest(t, o)
	read := func(g *memory.Guest, at memory.GPA, n int) string {
		t.Helper()
		p := make([]byte, n)
		if err := g.ReadAt(p, at); err != nil {
			t.Fatal(err)
		}
		return string(p)
	}
	if got := read(a, 0, 5) + " " + read(a, 1<<32, 6); got != "first second" {
		t.Fatalf("RAM holds %q", got)
	}
	if err := a.WriteAt([]byte("mine"), 0); err != nil {
		t.Fatal(err)
	}
	if err := a.Discard(1<<32, 4096); err != nil {
		t.Fatal(err)
	}
	if got := read(a, 0, 5); got != "minet" || read(a, 1<<32, 6) != string(make([]byte, 6)) {
		t.Errorf("after a write and a discard: %q, %q", got, read(a, 1<<32, 6))
	}
	if got := read(b, 0, 5) + " " + read(b, 1<<32, 6); got != "first second" {
		t.Errorf("the other one sees %q", got)
	}
	disk, err := os.ReadFile(f.Name())
	if err != nil || !bytes.HasPrefix(disk[16384:], []byte("first")) {
		t.Errorf("the file was changed: %q, %v", disk[16384:16389], err)
	}
	if n := a.Dirty().Count(); n != 2 {
		t.Errorf("%d dirty pages, want 2", n)
	}
	if a.FD() != -1 {
		t.Errorf("FD is %d", a.FD())
	}
}

func TestWhatIsReleasedReadsAsTheImageAgain(t *testing.T) {
	o := memory.Options{Regions: imageRegions, From: &memory.Image{File: imageFile(t), Offsets: []uint64{16384, 4096}}}
	g := newGuest(t, o)
	if err := g.WriteAt([]byte("mine"), 0); err != nil {
		t.Fatal(err)
	}
	b, err := g.Slice(0, 4096)
	if err != nil {
		t.Fatal(err)
	}
	var v memory.Vec
	v.Append(b)
	g.Dirty().Clear()
	if err := g.ReleaseVec(v); err != nil || g.ReleasesZeroes() {
		t.Fatal(err, g.ReleasesZeroes())
	}
	if string(b[:5]) != "first" || !g.Dirty().Has(0) {
		t.Errorf("RAM holds %q, dirty: %v", b[:5], g.Dirty().Has(0))
	}
}

func TestImagesThatDoNotFitAreRefused(t *testing.T) {
	f := imageFile(t)
	for name, o := range map[string]memory.Options{
		"one region too few": {Regions: imageRegions, From: &memory.Image{File: f, Offsets: []uint64{0}}},
		"not a page":         {Regions: imageRegions, From: &memory.Image{File: f, Offsets: []uint64{0, 512}}},
		"past the end":       {Regions: imageRegions, From: &memory.Image{File: f, Offsets: []uint64{20480, 0}}},
		"wraps":              {Regions: imageRegions, From: &memory.Image{File: f, Offsets: []uint64{^uint64(4095), 0}}},
		"huge pages":         {Size: 2 << 20, HugePages: true, From: &memory.Image{File: f, Offsets: []uint64{0}}},
	} {
		if _, err := memory.New(o); !errors.Is(err, memory.ErrLayout) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTakeMovesPagesOut(t *testing.T) {
	b := memory.NewBitmap(256)
	b.Set(3, 1)
	b.Set(64, 2)
	b.Set(200, 1)
	words := []uint64{1 << 5, 0}
	b.Take(64, words)
	if words[0] != 1<<5|3 || words[1] != 0 || b.Has(64) || !b.Has(3) || !b.Has(200) {
		t.Errorf("words %x, left %d", words, b.Count())
	}
	b.Take(192, make([]uint64, 5)) // longer than the bitmap
	if b.Count() != 1 {
		t.Errorf("%d pages left", b.Count())
	}
}
