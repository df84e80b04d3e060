package boot

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func names(t *testing.T, dir, prefix string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		if strings.HasPrefix(e.Name(), prefix) {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}

func open(t *testing.T, path, cache string) []byte {
	t.Helper()
	k, err := OpenKernel(path, cache)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	b := make([]byte, 1<<20)
	n, _ := k.file.ReadAt(b, 0)
	return b[:n]
}

// Others open the unpacked kernel by its path: also right after it was made.
func TestUnpackedKernelHasItsPath(t *testing.T) {
	cache, path := t.TempDir(), writeFile(t, bzFile{}.bytes())
	for range 2 {
		k, err := OpenKernel(path, cache)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		if b, err := os.ReadFile(k.ELFPath()); err != nil || !bytes.Equal(b, elfFile{}.bytes()) {
			t.Errorf("at %s are %d bytes, %v", k.ELFPath(), len(b), err)
		}
	}
}

func TestCacheServesByContent(t *testing.T) {
	want := elfFile{}.bytes()
	cache := filepath.Join(t.TempDir(), "a", "b")
	one, two := writeFile(t, bzFile{}.bytes()), writeFile(t, bzFile{}.bytes())
	for _, path := range []string{one, two, one} {
		if !bytes.Equal(open(t, path, cache), want) {
			t.Fatal("unpacked to something else")
		}
	}
	kept := names(t, cache, "vmlinux-")
	if len(kept) != 1 || len(names(t, cache, tmpPrefix)) != 0 {
		t.Fatalf("cache holds %v", names(t, cache, ""))
	}
	// It is the cached file that is opened, not a new one.
	st, err := os.Stat(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	open(t, two, cache)
	if again, _ := os.Stat(kept[0]); !os.SameFile(st, again) || !again.ModTime().Equal(st.ModTime()) {
		t.Error("unpacked again")
	}
}

func TestSettledFileIsNotHashedAgain(t *testing.T) {
	cache := t.TempDir()
	path := writeFile(t, bzFile{}.bytes())
	open(t, path, cache)
	if n := names(t, cache, "seen-"); len(n) != 0 {
		t.Fatalf("a file just written is trusted: %v", n)
	}
	defer func(d time.Duration) { settle = d }(settle)
	settle = -time.Minute
	open(t, path, cache)
	seen := names(t, cache, "seen-")
	if len(seen) != 1 {
		t.Fatalf("seen: %v", seen)
	}
	// The link alone decides now: point it elsewhere and see.
	other := elfFile{patch: u8(codeOff, 0xcc)}.bytes()
	if err := os.WriteFile(filepath.Join(cache, "vmlinux-other"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	link("vmlinux-other", seen[0])
	if !bytes.Equal(open(t, path, cache), other) {
		t.Error("hashed although the file is known")
	}
	// A file that changes is another file.
	if err := os.WriteFile(path, bzFile{}.bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(open(t, path, cache), elfFile{}.bytes()) {
		t.Error("a rewritten file is taken for the old one")
	}
}

func TestDamagedCacheIsRemade(t *testing.T) {
	want := elfFile{}.bytes()
	path := writeFile(t, bzFile{}.bytes())
	for name, damage := range map[string]func(string) error{
		"short":     func(p string) error { return os.Truncate(p, 100) },
		"longer":    func(p string) error { return os.WriteFile(p, append(bytes.Clone(want), 0), 0o600) },
		"zeroed":    func(p string) error { return os.WriteFile(p, make([]byte, len(want)), 0o600) },
		"directory": func(p string) error { return errors.Join(os.Remove(p), os.Symlink("nowhere", p)) },
	} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			open(t, path, cache)
			if err := damage(names(t, cache, "vmlinux-")[0]); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if !bytes.Equal(open(t, path, cache), want) {
					t.Fatal("served the damaged file")
				}
			}
		})
	}
}

func TestStaleTemporaryFilesGo(t *testing.T) {
	cache := t.TempDir()
	old, young := filepath.Join(cache, tmpPrefix+"old"), filepath.Join(cache, tmpPrefix+"young")
	for _, p := range []string{old, young} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-2 * tmpMaxAge)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	open(t, writeFile(t, bzFile{}.bytes()), cache)
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Error("what a killed process left an hour ago is still there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Error("another process's file was removed")
	}
}

func TestCacheIsShared(t *testing.T) {
	cache, path := t.TempDir(), writeFile(t, bzFile{}.bytes())
	want := elfFile{}.bytes()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			k, err := OpenKernel(path, cache)
			if err != nil {
				t.Error(err)
				return
			}
			defer k.Close()
			got := make([]byte, len(want))
			if _, err := k.file.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("got another kernel (%v)", err)
			}
		})
	}
	wg.Wait()
	if len(names(t, cache, "")) != 1 {
		t.Errorf("cache holds %v", names(t, cache, ""))
	}
}

func TestCacheThatCannotBeWrittenIsNamed(t *testing.T) {
	file := writeFile(t, nil)
	_, err := OpenKernel(writeFile(t, bzFile{}.bytes()), file)
	if err == nil || !strings.Contains(err.Error(), "kernel cache: mkdir "+file+": not a directory") {
		t.Errorf("error %v", err)
	}
	if errors.Is(err, ErrKernel) {
		t.Error("the kernel is blamed")
	}
}

// TestFullDiskIsNotABadKernel: writing fails, reading does not.
func TestFullDiskIsNotABadKernel(t *testing.T) {
	f, err := os.Open(writeFile(t, bzFile{}.bytes()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := parseBzImage(bzFile{}.bytes(), int64(len(bzFile{}.bytes())))
	if err != nil {
		t.Fatal(err)
	}
	size, err := h.identify(f)
	if err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	err = h.unpackTo(full, f, size)
	if err == nil || errors.Is(err, ErrKernel) || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("error %v", err)
	}
}

func TestSparseWriterKeepsBytes(t *testing.T) {
	var want []byte
	for i, n := range []int{1, 4095, 4096, 5000, 8192, 3, 12288, 7} {
		if i%2 == 0 {
			want = append(want, bytes.Repeat([]byte{byte(i + 1)}, n)...)
		} else {
			want = append(want, make([]byte, n)...)
		}
	}
	for _, step := range []int{1, 13, 4096, 9999, len(want)} {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		w := &sparseWriter{f: f}
		for b := want; len(b) > 0; b = b[min(step, len(b)):] {
			if n, err := w.Write(b[:min(step, len(b))]); err != nil || n != min(step, len(b)) {
				t.Fatal(n, err)
			}
		}
		if err := w.finish(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(f.Name())
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("in steps of %d: the file differs (%v)", step, err)
		}
		f.Close()
	}
}
