package memory_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/memory"
)

// onlyReader hides that a reader is a file.
type onlyReader struct{ io.ReaderAt }

func TestLoadFromPutsBytesWhereTheyBelong(t *testing.T) {
	const size = 9<<20 + 123 // more than one piece, and no whole page
	want := make([]byte, size)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < size; i++ {
		want[i] = byte(r.Uint32())
	}
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, append(make([]byte, 77), want...), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	zero := make([]byte, 4096)
	for name, r := range map[string]io.ReaderAt{"file": f, "reader": onlyReader{f}} {
		g := newGuest(t, memory.Options{Size: 5 << 30})
		for _, at := range []memory.GPA{0x100201, memory.HoleEnd + 0x5123} {
			if err := g.LoadFrom(r, 77, at, size); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got, err := g.Slice(at-4096, size+2*4096)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got[4096:4096+size], want) || !bytes.Equal(got[:4096], zero) || !bytes.Equal(got[4096+size:], zero) {
				t.Errorf("%s at %v: not the bytes of the file, or others beside them", name, at)
			}
		}
		if n := g.Dirty().Count(); n != 2*(size/memory.PageSize+1) {
			t.Errorf("%s: %d dirty pages", name, n)
		}
		if err := g.LoadFrom(r, 78, 0, size); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: beyond the file's end: %v", name, err)
		}
		clean, _ := g.Slice(memory.HoleStart-4096, 4096)
		if err := g.LoadFrom(r, 77, memory.HoleStart-4096, 4097); !errors.Is(err, memory.ErrOutOfRange) || !bytes.Equal(clean, zero) {
			t.Errorf("%s: beyond the region: %v", name, err)
		}
	}
}

func TestLoadFromAPipeIsNoWrite(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	g := newGuest(t, memory.Options{Size: 1 << 20})
	if err := g.LoadFrom(r, 0, 0, 4096); err == nil {
		t.Error("a pipe has no offsets")
	}
}
