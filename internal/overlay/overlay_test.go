package overlay

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func file(t testing.TB, b []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "overlay"))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	_, err = f.Write(b)
	must(t, err)
	return f
}

// below is an image of n bytes, none of them 0.
func below(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(1 + i/512%255)
	}
	return b
}

func open(t testing.TB, base []byte, f *os.File) *Overlay {
	t.Helper()
	o, err := Open(bytes.NewReader(base), uint64(len(base)), ID{1}, f)
	must(t, err)
	return o
}

func content(t testing.TB, o *Overlay) []byte {
	t.Helper()
	p := make([]byte, o.size)
	_, err := o.ReadAt(p, 0)
	must(t, err)
	return p
}

// Whatever is written, zeroed, synced and opened again, the disk is as a plain file
// would be, and the image below is as it was.
func TestOverlayIsADisk(t *testing.T) {
	base := below(5*blockSize + 3*512)
	want, image := bytes.Clone(base), bytes.Clone(base)
	f := file(t, nil)
	o := open(t, image, f)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 400 {
		off := r.IntN(len(base))
		n := 1 + r.IntN(min(len(base)-off, 3*blockSize))
		switch r.IntN(5) {
		case 0:
			must(t, o.Zero(int64(off), int64(n)))
			clear(want[off : off+n])
		case 1:
			must(t, o.Sync())
			o = open(t, image, f)
		default:
			p := bytes.Repeat([]byte{byte(r.Uint32())}, n)
			_, err := o.WriteAt(p, int64(off))
			must(t, err)
			copy(want[off:], p)
		}
		if !bytes.Equal(content(t, o), want) {
			t.Fatal("the disk is not what was written")
		}
	}
	if !bytes.Equal(image, base) {
		t.Error("the image below was written to")
	}
	for _, c := range [][2]int64{{-1, 1}, {int64(len(base)), 1}, {0, int64(len(base)) + 1}, {1 << 62, 1 << 62}} {
		if err := o.Zero(c[0], c[1]); !errors.Is(err, ErrFile) {
			t.Errorf("%d bytes at %d: %v", c[1], c[0], err)
		}
	}
}

const page = 4096

// A host that ends at any moment keeps of each page what was there at the last flush,
// or something newer; never the image's after a flush, and never what nobody wrote.
func TestAHostThatEndsLosesNothingFlushed(t *testing.T) {
	real := fdatasync
	defer func() { fdatasync = real }()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	base := below(6 * blockSize)
	for range 60 {
		f := file(t, nil)
		o := open(t, base, f)
		durable, err := os.ReadFile(f.Name())
		must(t, err)
		crash := false
		fdatasync = func(f *os.File) error {
			if crash = r.IntN(12) == 0; crash {
				return errors.New("the host ends")
			}
			durable, err = os.ReadFile(f.Name())
			return err
		}
		allowed := make([][]byte, len(base)/page) // of each page, the first byte of each version
		for i := range allowed {
			allowed[i] = []byte{base[i*page]}
		}
		for !crash {
			if r.IntN(4) == 0 {
				if o.Sync() == nil {
					for i := range allowed {
						allowed[i] = allowed[i][len(allowed[i])-1:]
					}
				}
				continue
			}
			i, v := r.IntN(len(allowed)), byte(r.Uint32())
			if v%8 == 0 {
				v = 0
				must(t, o.Zero(int64(i*page), page))
			} else {
				_, err := o.WriteAt(bytes.Repeat([]byte{v}, page), int64(i*page))
				must(t, err)
			}
			allowed[i] = append(allowed[i], v)
		}
		// Of what was not synced some pages have reached the disk.
		after, err := os.ReadFile(f.Name())
		must(t, err)
		for at := 0; at < len(after); at += 512 {
			if r.IntN(2) == 0 {
				copy(after[at:min(at+512, len(after))], durable[at:])
			}
		}
		got := content(t, open(t, base, file(t, after)))
		for i := range allowed {
			for at := 0; at < page; at += 512 {
				v := got[i*page+at]
				old := v == base[i*page+at] && allowed[i][0] == base[i*page]
				if !old && !bytes.Contains(allowed[i], []byte{v}) {
					t.Fatalf("page %d holds %d, which is none of %v", i, v, allowed[i])
				}
			}
		}
	}
}

func TestAFailedSyncStaysFailed(t *testing.T) {
	real := fdatasync
	defer func() { fdatasync = real }()
	o := open(t, below(blockSize), file(t, nil))
	_, err := o.WriteAt([]byte{1}, 0)
	must(t, err)
	broken := errors.New("no disk")
	fdatasync = func(*os.File) error { return broken }
	if err := o.Sync(); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	fdatasync = real
	if err := o.Sync(); !errors.Is(err, broken) {
		t.Errorf("then: %v", err)
	}
}

func TestFilesThatAreNoOverlayAreLeftAlone(t *testing.T) {
	base := below(blockSize + 512)
	f := file(t, nil)
	must(t, open(t, base, f).Sync())
	good, err := os.ReadFile(f.Name())
	must(t, err)
	for says, change := range map[string]func(b []byte) []byte{
		"none that hvctl has made": func([]byte) []byte { return []byte("a letter") },
		"is not empty":             func(b []byte) []byte { b[atSize] ^= 1; return b },
		"its end is missing":       func(b []byte) []byte { return b[:len(b)-1] },
	} {
		b := change(bytes.Clone(good))
		f := file(t, b)
		if _, err := Open(bytes.NewReader(base), uint64(len(base)), ID{1}, f); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
		if now, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(now, b) {
			t.Errorf("%s: it was changed (%v)", says, err)
		}
	}
	if _, err := Open(bytes.NewReader(base), uint64(len(base)), ID{2}, file(t, good)); err == nil || !strings.Contains(err.Error(), "another image") {
		t.Errorf("over another image: %v", err)
	}
	if _, err := Open(bytes.NewReader(base), uint64(len(base))+512, ID{1}, file(t, good)); err == nil || !strings.Contains(err.Error(), "a disk of") {
		t.Errorf("over a larger one: %v", err)
	}
	if _, err := Open(bytes.NewReader(base), MaxSize+512, ID{1}, file(t, nil)); err == nil {
		t.Error("over one too large")
	}
}

// Several queues write to one block while others read and flush.
func TestOverlayServesSeveralAtOnce(t *testing.T) {
	o := open(t, below(4*blockSize), file(t, nil))
	var wg sync.WaitGroup
	for q := range 8 {
		wg.Go(func() {
			p := bytes.Repeat([]byte{byte(q)}, 512)
			for at := int64(q) * 512; at < o.size; at += 8 * 512 {
				if _, err := o.WriteAt(p, at); err != nil {
					t.Error(err)
				}
				if at%blockSize == 0 {
					if err := o.Sync(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	for i, b := range content(t, o) {
		if b != byte(i/512%8) {
			t.Fatalf("byte %d is %d", i, b)
		}
	}
}

func FuzzFile(f *testing.F) {
	base := below(2*blockSize + 512)
	o := file(f, nil)
	_, err := Open(bytes.NewReader(base), uint64(len(base)), ID{1}, o)
	must(f, err)
	good, err := os.ReadFile(o.Name())
	must(f, err)
	f.Add(good[:headerSize+8])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > len(good) {
			return
		}
		o, err := Open(bytes.NewReader(base), uint64(len(base)), ID{1}, file(t, append(bytes.Clone(b), good[len(b):]...)))
		if err != nil {
			return
		}
		content(t, o)
		must(t, o.Zero(1, o.size-1))
		must(t, o.Sync())
	})
}
