package initrd_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/hvctl/hvctl/internal/initrd"
)

// object is the smallest thing that passes for a module: the header of a
// relocatable x86-64 ELF file.
func object(tail string) []byte {
	b := make([]byte, 64)
	copy(b, "\x7fELF\x02\x01\x01")
	b[16], b[18] = 1, 62
	return append(b, tail...)
}

func pack(t testing.TB, ext string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case ".ko":
		return b
	case ".gz":
		w = gzip.NewWriter(&out)
	case ".xz":
		w, err = xz.NewWriter(&out)
	case ".zst":
		w, err = zstd.NewWriter(&out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func write(t testing.TB, dir, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

// member is one file of an archive.
type member struct {
	mode         uint64
	major, minor uint64
	data         string
}

// read takes an archive apart and checks its form: fields, padding, order.
func read(t *testing.T, b []byte) (names []string, files map[string]member) {
	t.Helper()
	files = map[string]member{}
	off := 0
	pad := func() {
		for ; off%4 != 0; off++ {
			if b[off] != 0 {
				t.Fatalf("padding at %d is not zero", off)
			}
		}
	}
	for {
		if string(b[off:off+6]) != "070701" {
			t.Fatalf("no header at %d", off)
		}
		var f [13]uint64
		for i := range f {
			n, err := strconv.ParseUint(string(b[off+6+8*i:off+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			f[i] = n
		}
		name := string(b[off+110 : off+110+int(f[11])-1])
		off += 110 + int(f[11])
		pad()
		if off%4 != 0 {
			t.Fatalf("data of %s is not aligned", name)
		}
		if name == "TRAILER!!!" {
			return names, files
		}
		if _, dup := files[name]; dup {
			t.Fatalf("%s is there twice", name)
		}
		names = append(names, name)
		files[name] = member{f[1], f[9], f[10], string(b[off : off+int(f[6])])}
		off += int(f[6])
		pad()
	}
}

func TestBuildHoldsWhatWasAskedFor(t *testing.T) {
	dir := t.TempDir()
	o := initrd.Options{Hvinit: write(t, dir, "hvinit", []byte("init binary"))}
	for i, ext := range []string{".ko", ".gz", ".xz", ".zst"} {
		name := fmt.Sprint("mod", i)
		path := write(t, dir, name+".ko"+strings.TrimPrefix(ext, ".ko"), pack(t, ext, object(name)))
		o.Modules = append(o.Modules, initrd.Module{Name: name, Path: path})
	}
	o.Extra = []initrd.Extra{{Name: "etc/deep/b", Mode: 0o600, Data: []byte("b")}, {Name: "etc/a", Mode: 0o644, Data: []byte("a")}}
	var out bytes.Buffer
	if err := initrd.Build(&out, o); err != nil {
		t.Fatal(err)
	}
	names, files := read(t, out.Bytes())
	if m := files["init"]; m.mode != 0o100755 || m.data != "init binary" {
		t.Errorf("init: %+v", m)
	}
	if m := files["dev/console"]; m.mode != 0o020600 || m.major != 5 || m.minor != 1 {
		t.Errorf("console: %+v", m)
	}
	if got := files["hvctl/modules"].data; got != "mod0.ko\nmod1.ko\nmod2.ko\nmod3.ko\n" {
		t.Errorf("load order %q", got)
	}
	for i := range 4 {
		name := fmt.Sprint("mod", i)
		if got := files["hvctl/"+name+".ko"].data; got != string(object(name)) {
			t.Errorf("%s is %d bytes, want the unpacked object", name, len(got))
		}
	}
	if m := files["etc/deep/b"]; m.mode != 0o100600 || m.data != "b" {
		t.Errorf("extra file: %+v", m)
	}
	seen := map[string]bool{".": true}
	for _, n := range names {
		if !seen[filepath.Dir(n)] {
			t.Errorf("%s comes before its directory", n)
		}
		seen[n] = true
	}
}

func TestBuildIsReproducible(t *testing.T) {
	dir := t.TempDir()
	o := initrd.Options{
		Hvinit:  write(t, dir, "hvinit", []byte("x")),
		Modules: []initrd.Module{{Name: "m", Path: write(t, dir, "m.ko", object(""))}},
		Extra:   []initrd.Extra{{Name: "b"}, {Name: "a"}},
	}
	var first, second bytes.Buffer
	if err := initrd.Build(&first, o); err != nil {
		t.Fatal(err)
	}
	o.Hvinit = write(t, t.TempDir(), "other", []byte("x"))
	o.Extra[0], o.Extra[1] = o.Extra[1], o.Extra[0]
	if err := initrd.Build(&second, o); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same content in other files and order gave other bytes")
	}
}

func TestCpioProgramReadsTheArchive(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Log("no cpio program here: the archive is checked by this package's reader alone")
		return
	}
	dir := t.TempDir()
	var out bytes.Buffer
	if err := initrd.Build(&out, initrd.Options{Hvinit: write(t, dir, "hvinit", []byte("x"))}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "-t", "--quiet")
	cmd.Stdin = &out
	list, err := cmd.CombinedOutput()
	if err != nil || string(list) != "dev\nhv\nhvctl\nproc\nsys\ndev/console\ninit\n" {
		t.Errorf("cpio: %v, %q", err, list)
	}
}

func TestBuildRejects(t *testing.T) {
	dir := t.TempDir()
	hvinit := write(t, dir, "hvinit", []byte("x"))
	good := write(t, dir, "good.ko", object(""))
	exe := object("")
	exe[16] = 2
	arm := object("")
	arm[18] = 183
	tests := []struct {
		name string
		o    initrd.Options
		err  error
		msg  string
	}{
		{"no init", initrd.Options{}, initrd.ErrOptions, "no guest init given"},
		{"init missing", initrd.Options{Hvinit: dir + "/none"}, os.ErrNotExist, "the guest's init"},
		{"init is a directory", initrd.Options{Hvinit: dir}, initrd.ErrOptions, "not a regular file"},
		{"module missing", initrd.Options{Hvinit: hvinit, Modules: []initrd.Module{{"m", dir + "/none.ko"}}}, initrd.ErrModule, "m: open"},
		{"module twice", initrd.Options{Hvinit: hvinit, Modules: []initrd.Module{{"m", good}, {"m", good}}}, initrd.ErrOptions, "given twice"},
		{"module name is a path", initrd.Options{Hvinit: hvinit, Modules: []initrd.Module{{"../m", good}}}, initrd.ErrOptions, "module name"},
		{"unknown type", initrd.Options{Hvinit: hvinit, Modules: []initrd.Module{{"m", write(t, dir, "m.lz4", nil)}}}, initrd.ErrModule, "want .ko"},
		{"text", initrd.Options{Hvinit: hvinit, Modules: []initrd.Module{{"m", write(t, dir, "text.ko", []byte("hello"))}}}, initrd.ErrModule, "not an ELF file"},
		{"executable", initrd.Options{Hvinit: hvinit, Modules: []initrd.Module{{"m", write(t, dir, "exe.ko", exe)}}}, initrd.ErrModule, "not a relocatable"},
		{"other machine", initrd.Options{Hvinit: hvinit, Modules: []initrd.Module{{"m", write(t, dir, "arm.ko", arm)}}}, initrd.ErrModule, "not for x86-64"},
		{"truncated gzip", initrd.Options{Hvinit: hvinit, Modules: []initrd.Module{{"m", write(t, dir, "cut.ko.gz", pack(t, ".gz", object("abc"))[:20])}}}, initrd.ErrModule, "unexpected EOF"},
		{"bomb", initrd.Options{Hvinit: hvinit, Modules: []initrd.Module{{"m", write(t, dir, "bomb.ko.zst", pack(t, ".zst", make([]byte, 65<<20)))}}}, initrd.ErrModule, "m ("},
		{"extra escapes", initrd.Options{Hvinit: hvinit, Extra: []initrd.Extra{{Name: "../x"}}}, initrd.ErrOptions, "clean relative path"},
		{"extra replaces init", initrd.Options{Hvinit: hvinit, Extra: []initrd.Extra{{Name: "init"}}}, initrd.ErrOptions, "given twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := initrd.Build(io.Discard, tt.o)
			if !errors.Is(err, tt.err) || !strings.Contains(fmt.Sprint(err), tt.msg) {
				t.Errorf("got %v, want %q and to contain %q", err, tt.err, tt.msg)
			}
			cache := t.TempDir()
			if _, err := initrd.File(cache, tt.o); err == nil {
				t.Error("File accepted it")
			}
			if left, _ := os.ReadDir(cache); len(left) != 0 {
				t.Errorf("File left %v behind", left)
			}
		})
	}
}

func TestFileBuildsOnceAndAgainWhenAnInputChanged(t *testing.T) {
	dir, cache := t.TempDir(), filepath.Join(t.TempDir(), "new")
	o := initrd.Options{Hvinit: write(t, dir, "hvinit", []byte("one"))}
	var wg sync.WaitGroup
	names := make([]string, 8)
	for i := range names {
		wg.Go(func() {
			var err error
			if names[i], err = initrd.File(cache, o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, n := range names {
		if n != names[0] {
			t.Fatalf("eight builders gave %q and %q", names[0], n)
		}
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, files := read(t, b); files["init"].data != "one" {
		t.Errorf("init is %q", files["init"].data)
	}
	old := time.Now().Add(-31 * 24 * time.Hour)
	if err := os.Chtimes(names[0], old, old); err != nil {
		t.Fatal(err)
	}
	o.Hvinit = write(t, dir, "hvinit2", []byte("two"))
	second, err := initrd.File(cache, o)
	if err != nil || second == names[0] {
		t.Fatalf("after a change: %q, %v", second, err)
	}
	left, err := os.ReadDir(cache)
	if err != nil || len(left) != 1 {
		t.Errorf("the unused archive was to go: %v %v", left, err)
	}
}

func TestWantedNamesAreDistinct(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range initrd.Wanted() {
		if seen[w.Name] || w.Why == "" || strings.Contains(w.Name, "-") {
			t.Errorf("%+v: twice, without a reason, or not a module name", w)
		}
		seen[w.Name] = true
	}
}

func FuzzModule(f *testing.F) {
	for i, ext := range []string{".ko", ".gz", ".xz", ".zst"} {
		f.Add(uint8(i), pack(f, ext, object("x")))
	}
	dir := f.TempDir()
	hvinit := write(f, dir, "hvinit", []byte("x"))
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		ext := []string{"", ".gz", ".xz", ".zst"}[kind%4]
		path := write(t, t.TempDir(), "m.ko"+ext, b)
		err := initrd.Build(io.Discard, initrd.Options{Hvinit: hvinit, Modules: []initrd.Module{{Name: "m", Path: path}}})
		if err != nil && !errors.Is(err, initrd.ErrModule) {
			t.Errorf("unexpected kind of error: %v", err)
		}
	})
}
