package rootfs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	goerofs "github.com/erofs/go-erofs"
	"github.com/opencontainers/go-digest"

	"github.com/hvctl/hvctl/images/rootfs"
)

// ent is one entry of a layer; the zero type is a regular file.
type ent struct {
	name string
	typ  byte
	body string
	link string
	mode int64
	pax  map[string]string
	dev  [2]int64
}

func dir(name string) ent        { return ent{name: name, typ: tar.TypeDir, mode: 0o755} }
func file(name, body string) ent { return ent{name: name, body: body, mode: 0o644} }
func symlink(name, to string) ent {
	return ent{name: name, typ: tar.TypeSymlink, link: to, mode: 0o777}
}
func hardlink(name, to string) ent { return ent{name: name, typ: tar.TypeLink, link: to} }
func whiteout(name string) ent {
	return file(filepath.Join(filepath.Dir(name), ".wh."+filepath.Base(name)), "")
}
func opaque(dir string) ent { return file(dir+"/.wh..wh..opq", "") }
func char(name string, major, minor int64) ent {
	return ent{name: name, typ: tar.TypeChar, mode: 0o666, dev: [2]int64{major, minor}}
}

var mtime = time.Unix(1700000000, 0)

func layerBytes(t testing.TB, es ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range es {
		h := &tar.Header{
			Name: e.name, Typeflag: e.typ, Linkname: e.link, Mode: e.mode, Size: int64(len(e.body)),
			ModTime: mtime, Devmajor: e.dev[0], Devminor: e.dev[1], PAXRecords: e.pax,
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(e.name, err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func layer(b []byte) rootfs.Layer {
	return rootfs.Layer{
		Name: "test", DiffID: digest.FromBytes(b),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
	}
}

// memFile is an erofs.File in memory.
type memFile struct{ b []byte }

func (m *memFile) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memFile) Truncate(n int64) error {
	if int(n) <= len(m.b) {
		m.b = m.b[:n]
		return nil
	}
	m.b = append(m.b, make([]byte, int(n)-len(m.b))...)
	return nil
}

func build(ctx context.Context, opt rootfs.Options, layers ...[]byte) (fs.FS, rootfs.Info, []byte, error) {
	var ls []rootfs.Layer
	for _, b := range layers {
		ls = append(ls, layer(b))
	}
	var m memFile
	info, err := rootfs.Build(ctx, &m, ls, opt)
	if err != nil {
		return nil, info, nil, err
	}
	fsys, err := goerofs.Open(bytes.NewReader(m.b))
	return fsys, info, m.b, err
}

// tree lists an image as "path: contents" or "path -> target" or "path/".
func tree(t *testing.T, fsys fs.FS) []string {
	t.Helper()
	var out []string
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case p == ".":
		case d.IsDir():
			out = append(out, p+"/")
		case d.Type() == fs.ModeSymlink:
			to, err := fs.ReadLink(fsys, p)
			out = append(out, p+" -> "+to)
			return err
		case d.Type().IsRegular():
			b, err := fs.ReadFile(fsys, p)
			out = append(out, p+": "+string(b))
			return err
		default:
			out = append(out, p+" "+d.Type().String())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func TestLayersFlatten(t *testing.T) {
	cases := []struct {
		name   string
		layers [][]ent
		want   []string
	}{
		{"upper file replaces", [][]ent{{file("a", "1"), file("b", "1")}, {file("a", "22")}}, []string{"a: 22", "b: 1"}},
		{"whiteout hides a file", [][]ent{{file("a", "1"), file("b", "1")}, {whiteout("a")}}, []string{"b: 1"}},
		{"whiteout hides a directory", [][]ent{{dir("d"), file("d/a", "1"), dir("d/e"), file("d/e/f", "")}, {whiteout("d")}}, nil},
		{"whiteout of nothing", [][]ent{{file("a", "1")}, {whiteout("x/y"), whiteout("b")}}, []string{"a: 1"}},
		{"whiteout spares its own layer, after", [][]ent{{file("a", "1")}, {whiteout("a"), file("a", "2")}}, []string{"a: 2"}},
		{"whiteout spares its own layer, before", [][]ent{{file("a", "1")}, {file("a", "2"), whiteout("a")}}, []string{"a: 2"}},
		{
			"whiteout of a directory made again",
			[][]ent{{dir("d"), file("d/old", "1")}, {dir("d"), file("d/new", "2"), whiteout("d")}},
			[]string{"d/", "d/new: 2"},
		},
		{
			"opaque hides what is below, before",
			[][]ent{{dir("d"), file("d/old", "1"), dir("d/sub"), file("d/sub/x", "")}, {dir("d"), opaque("d"), file("d/new", "2")}},
			[]string{"d/", "d/new: 2"},
		},
		{
			"opaque hides what is below, after",
			[][]ent{{dir("d"), file("d/old", "1"), dir("d/sub"), file("d/sub/x", "")}, {dir("d"), file("d/new", "2"), file("d/sub/y", "3"), opaque("d")}},
			[]string{"d/", "d/new: 2", "d/sub/", "d/sub/y: 3"},
		},
		{"opaque twice", [][]ent{{dir("d"), file("d/old", "1")}, {opaque("d"), opaque("d")}, {file("d/n", "")}, {opaque("d")}}, []string{"d/"}},
		{"opaque root", [][]ent{{file("a", "1"), dir("d")}, {file(".wh..wh..opq", ""), file("b", "2")}}, []string{"b: 2"}},
		{"other AUFS names are nothing", [][]ent{{dir(".wh..wh.plnk"), file(".wh..wh.aufs", "x"), file("a", "")}}, []string{"a: "}},
		{"whiteout then back", [][]ent{{file("a", "1")}, {whiteout("a")}, {file("a", "3")}}, []string{"a: 3"}},
		{"directory over directory keeps its files", [][]ent{{dir("d"), file("d/a", "1")}, {dir("d")}}, []string{"d/", "d/a: 1"}},
		{"file over directory", [][]ent{{dir("d"), file("d/a", "1")}, {file("d", "2")}}, []string{"d: 2"}},
		{"directory over file", [][]ent{{file("d", "2")}, {dir("d"), file("d/a", "1")}}, []string{"d/", "d/a: 1"}},
		{"directory over symlink", [][]ent{{dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib")}, {dir("lib"), file("lib/a", "1")}}, []string{"lib/", "lib/a: 1", "usr/", "usr/lib/"}},
		{"file through a symlinked directory", [][]ent{{dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib")}, {file("lib/a", "1")}}, []string{"lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/a: 1"}},
		{"absolute symlink stays inside", [][]ent{{symlink("l", "/etc"), file("l/x", "1")}}, []string{"etc/", "etc/x: 1", "l -> /etc"}},
		{"symlink upwards stays inside", [][]ent{{dir("a"), symlink("a/l", "../../../../tmp"), file("a/l/x", "1")}}, []string{"a/", "a/l -> ../../../../tmp", "tmp/", "tmp/x: 1"}},
		{"whiteout through a symlink", [][]ent{{dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib"), file("usr/lib/a", "")}, {whiteout("lib/a")}}, []string{"lib -> usr/lib", "usr/", "usr/lib/"}},
		{"parents are made", [][]ent{{file("a/b/c", "1")}}, []string{"a/", "a/b/", "a/b/c: 1"}},
		{"names are cleaned", [][]ent{{dir("./"), file("./a//./b", "1"), file("/c", "2")}}, []string{"a/", "a/b: 1", "c: 2"}},
		{"a name twice in a layer", [][]ent{{file("a", "1"), file("a", "2")}}, []string{"a: 2"}},
		{"hard link", [][]ent{{file("a", "1"), hardlink("b", "a")}}, []string{"a: 1", "b: 1"}},
		{"hard link to a lower layer", [][]ent{{file("a", "1")}, {hardlink("d/b", "./a"), whiteout("a")}}, []string{"d/", "d/b: 1"}},
		{"hard link to itself", [][]ent{{file("a", "1"), hardlink("a", "a")}}, []string{"a: 1"}},
		{"hard link to a symlink", [][]ent{{symlink("a", "x"), hardlink("b", "a")}}, []string{"a -> x", "b -> x"}},
		{"link replaced keeps the other name", [][]ent{{file("a", "1"), hardlink("b", "a")}, {file("a", "2")}}, []string{"a: 2", "b: 1"}},
		{"devices", [][]ent{{dir("dev"), char("dev/null", 1, 3), {name: "dev/p", typ: tar.TypeFifo}}}, []string{"dev/", "dev/null Dc---------", "dev/p p---------"}},
		{"long names", [][]ent{{file(strings.Repeat("d/", 500)+strings.Repeat("n", 255), "1")}}, nil},
		{"no layers", nil, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var ls [][]byte
			for _, l := range c.layers {
				ls = append(ls, layerBytes(t, l...))
			}
			fsys, _, raw, err := build(t.Context(), rootfs.Options{}, ls...)
			if err != nil {
				t.Fatal(err)
			}
			if c.name == "long names" {
				b, err := fs.ReadFile(fsys, strings.Repeat("d/", 500)+strings.Repeat("n", 255))
				if err != nil || string(b) != "1" {
					t.Errorf("%q, %v", b, err)
				}
			} else if got := tree(t, fsys); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			_, _, again, err := build(t.Context(), rootfs.Options{}, ls...)
			if err != nil || !bytes.Equal(raw, again) {
				t.Errorf("a second build gives other bytes (%v)", err)
			}
		})
	}
}

func TestAttributesComeThrough(t *testing.T) {
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	e := file("ping", "x")
	e.mode = 0o4755
	e.pax = map[string]string{
		"SCHILY.xattr.security.capability":     capability,
		"SCHILY.xattr.user.overlay.opaque":     "y",
		"SCHILY.xattr.trusted.overlay.opaque":  "y",
		"SCHILY.xattr.com.apple.FinderInfo":    "mac",
		"SCHILY.xattr.system.posix_acl_access": "\x02\x00\x00\x00",
	}
	d := dir("tmp")
	d.mode = 0o1777
	root := dir("./")
	root.mode = 0o700
	fsys, info, _, err := build(t.Context(), rootfs.Options{}, layerBytes(t, root, d, e, hardlink("ping6", "ping")))
	if err != nil {
		t.Fatal(err)
	}
	fi, err := fs.Stat(fsys, "ping")
	if err != nil {
		t.Fatal(err)
	}
	s := fi.Sys().(*goerofs.Stat)
	if s.Xattrs["security.capability"] != capability {
		t.Errorf("attributes %q", s.Xattrs)
	}
	for _, gone := range []string{"user.overlay.opaque", "trusted.overlay.opaque", "com.apple.FinderInfo"} {
		if _, ok := s.Xattrs[gone]; ok {
			t.Errorf("%s is in the image", gone)
		}
	}
	if info.DroppedXattrs != 3 {
		t.Errorf("%d attributes dropped, want 3", info.DroppedXattrs)
	}
	if s.Mode != fs.ModeSetuid|0o755 || !fi.ModTime().Equal(mtime) || s.Nlink != 2 {
		t.Errorf("mode %v, time %v, %d links", s.Mode, fi.ModTime(), s.Nlink)
	}
	for name, want := range map[string]fs.FileMode{"tmp": fs.ModeSticky | 0o777, ".": 0o700} {
		fi, err := fs.Stat(fsys, name)
		if err != nil {
			t.Fatal(err)
		}
		if m := fi.Sys().(*goerofs.Stat).Mode; m&^fs.ModeDir != want {
			t.Errorf("%s: %v, want %v", name, m, want)
		}
	}
}

func TestBadLayersAreRefused(t *testing.T) {
	long := strings.Repeat("x", 256)
	withPax := func(k, v string) ent { e := file("a", ""); e.pax = map[string]string{k: v}; return e }
	cases := []struct {
		name string
		es   []ent
		want error
		text string
	}{
		{"dot dot", []ent{file("a/../../b", "")}, rootfs.ErrUnsafePath, `".." component`},
		{"dot dot in a hard link", []ent{file("a", ""), hardlink("b", "../a")}, rootfs.ErrUnsafePath, "hard link target"},
		{"whiteout of dot dot", []ent{file("a/.wh...", "")}, rootfs.ErrUnsafePath, "whiteout"},
		{"whiteout of nothing", []ent{file("a/.wh.", "")}, rootfs.ErrUnsafePath, "whiteout"},
		{"file in a whiteout", []ent{file(".wh.a/b", "")}, rootfs.ErrBadLayer, "whiteout"},
		{"hard link to nothing", []ent{hardlink("a", "b")}, rootfs.ErrBadLayer, "does not exist"},
		{"hard link into nothing", []ent{hardlink("a", "b/c")}, rootfs.ErrBadLayer, "does not exist"},
		{"hard link to a directory", []ent{dir("d"), hardlink("a", "d")}, rootfs.ErrBadLayer, "is a directory"},
		{"hard link to the root", []ent{hardlink("a", "/")}, rootfs.ErrBadLayer, "root directory"},
		{"root is a file", []ent{file(".", "x")}, rootfs.ErrBadLayer, "root"},
		{"symlink loop", []ent{symlink("a", "b"), symlink("b", "a"), file("a/x", "")}, rootfs.ErrBadLayer, "too many symbolic links"},
		{"symlink to nothing", []ent{symlink("a", "")}, rootfs.ErrBadLayer, "target"},
		{"below a file", []ent{file("a", ""), file("a/b", "")}, rootfs.ErrBadLayer, "not a directory"},
		{"long component", []ent{file(long, "")}, rootfs.ErrBadLayer, "255"},
		{"long component by symlink", []ent{symlink("a", long), file("a/x", "")}, rootfs.ErrBadLayer, "255"},
		{"long path", []ent{file(strings.Repeat("d/", 2048)+"x", "")}, rootfs.ErrBadLayer, "4095"},
		{"deep", []ent{file(strings.Repeat("d/", 1500)+"x", "")}, rootfs.ErrBadLayer, "nested deeper"},
		{"device", []ent{char("a", 1<<12, 0)}, rootfs.ErrBadLayer, "device number"},
		{"unknown type", []ent{{name: "a", typ: 'Z'}}, rootfs.ErrBadLayer, "unknown entry type"},
		{"huge attribute", []ent{withPax("SCHILY.xattr.user.a", strings.Repeat("v", 70<<10))}, nil, "extended attributes"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, _, _, err := build(t.Context(), rootfs.Options{}, layerBytes(t, c.es...))
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

func TestBombsHitTheLimits(t *testing.T) {
	var many []ent
	for i := range 200 {
		many = append(many, file(fmt.Sprint(i), ""))
	}
	_, _, _, err := build(t.Context(), rootfs.Options{MaxFiles: 100}, layerBytes(t, many...))
	if !errors.Is(err, rootfs.ErrLimit) || !strings.Contains(err.Error(), "more than 100 files") {
		t.Errorf("files: %v", err)
	}
	// Directories that are only implied count, too.
	_, _, _, err = build(t.Context(), rootfs.Options{MaxFiles: 100}, layerBytes(t, file(strings.Repeat("d/", 200)+"x", "")))
	if !errors.Is(err, rootfs.ErrLimit) {
		t.Errorf("implied directories: %v", err)
	}
	_, _, _, err = build(t.Context(), rootfs.Options{MaxBytes: 100_000}, layerBytes(t, file("a", strings.Repeat("x", 60_000))), layerBytes(t, file("a", strings.Repeat("x", 60_000))))
	if !errors.Is(err, rootfs.ErrLimit) || !strings.Contains(err.Error(), "more than 100000 bytes") {
		t.Errorf("bytes: %v", err)
	}
	_, _, _, err = build(t.Context(), rootfs.Options{MaxBytes: 1 << 30}, sparseLayer(t, 1<<40))
	if !errors.Is(err, rootfs.ErrLimit) {
		t.Errorf("sparse: %v", err)
	}
	// Names are bounded although they are short of the other limits.
	zeros := append(layerBytes(t, file("a", "")), make([]byte, 1<<20)...)
	if _, _, _, err = build(t.Context(), rootfs.Options{MaxBytes: 100_000}, zeros); !errors.Is(err, rootfs.ErrLimit) {
		t.Errorf("bytes behind the end of the archive: %v", err)
	}
}

// sparseLayer is a GNU sparse (1.0) file of one byte at its end, which the tar
// package can read but not write.
func sparseLayer(t testing.TB, size int64) []byte {
	t.Helper()
	m := fmt.Sprintf("1\n%d\n1\n", size-1)
	body := m + strings.Repeat("\x00", 512-len(m)) + "x"
	var b bytes.Buffer
	pax := ""
	for _, kv := range [][2]string{{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", "sparse"}, {"GNU.sparse.realsize", fmt.Sprint(size)}} {
		rec := fmt.Sprintf(" %s=%s\n", kv[0], kv[1])
		n := len(rec) + 2
		for len(fmt.Sprint(n))+len(rec) != n {
			n = len(fmt.Sprint(n)) + len(rec)
		}
		pax += fmt.Sprint(n) + rec
	}
	w := tar.NewWriter(&b)
	header := func(name string, typ byte, body string) {
		// tar.Writer refuses type 'x', so the header is patched behind it.
		at := b.Len()
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(body)), Mode: 0o644, Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		h := b.Bytes()[at : at+512]
		h[156] = typ
		copy(h[148:156], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	header("PaxHeaders/sparse", 'x', pax)
	header("GNUSparseFile.0/sparse", '0', body)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSparseFileStaysSparse(t *testing.T) {
	const size = 64 << 20
	fsys, info, _, err := build(t.Context(), rootfs.Options{}, sparseLayer(t, size))
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Open("sparse")
	if err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil || fi.Size() != size {
		t.Errorf("size %d, %v", fi.Size(), err)
	}
	if info.Size > 1<<20 {
		t.Errorf("image of %d bytes for one byte of data", info.Size)
	}
	b, err := io.ReadAll(f)
	if err != nil || len(b) != size || b[size-1] != 'x' || bytes.Trim(b[:size-1], "\x00") != nil {
		t.Errorf("%d bytes, %v, or wrong contents", len(b), err)
	}
}

func TestDamagedArchives(t *testing.T) {
	whole := layerBytes(t, file("a", strings.Repeat("x", 5000)), file("b", "y"))
	for _, n := range []int{100, 512, 600, 3000, 5700} {
		_, _, _, err := build(t.Context(), rootfs.Options{}, whole[:n])
		if !errors.Is(err, rootfs.ErrBadLayer) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	bad := bytes.Clone(whole)
	bad[3] ^= 1 // header checksum
	if _, _, _, err := build(t.Context(), rootfs.Options{}, bad); !errors.Is(err, rootfs.ErrBadLayer) {
		t.Errorf("bad header: %v", err)
	}
}

func TestDiffIDIsChecked(t *testing.T) {
	b := layerBytes(t, file("a", "1"))
	l := layer(b)
	l.DiffID = digest.FromString("something else")
	_, err := rootfs.Build(t.Context(), &memFile{}, []rootfs.Layer{l}, rootfs.Options{})
	if !errors.Is(err, rootfs.ErrDiffID) || !strings.Contains(err.Error(), "layer test") {
		t.Errorf("got %v", err)
	}
}

func TestCancelEndsABuild(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := rootfs.Layer{Name: "endless", Open: func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(layerBytes(t, file("a", ""))), endless{cancel})), nil
	}}
	if _, err := rootfs.Build(ctx, &memFile{}, []rootfs.Layer{l}, rootfs.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// endless cancels when it is read and never ends.
type endless struct{ cancel func() }

func (e endless) Read(p []byte) (int, error) {
	e.cancel()
	clear(p)
	return len(p), nil
}

func TestReplacedContentsAreReportedDead(t *testing.T) {
	_, info, _, err := build(t.Context(), rootfs.Options{}, layerBytes(t, file("a", strings.Repeat("1", 8192))), layerBytes(t, file("a", strings.Repeat("2", 8192))))
	if err != nil || len(info.Dead) != 1 || info.Dead[0].Length != 8192 {
		t.Errorf("%v, %v", info.Dead, err)
	}
}

func FuzzFlatten(f *testing.F) {
	f.Add(layerBytes(f, dir("d"), file("d/a", "1"), hardlink("b", "d/a"), symlink("l", "/d"), file("l/x", "2")), layerBytes(f, opaque("d"), whiteout("b")))
	f.Add(layerBytes(f, char("n", 1, 3), file("a", strings.Repeat("x", 5000))), layerBytes(f, hardlink("c", "a"), file("a", "")))
	f.Add(sparseLayer(f, 1<<20), []byte{})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		fsys, _, _, err := build(t.Context(), rootfs.Options{MaxFiles: 2000, MaxBytes: 8 << 20}, a, b)
		if err != nil {
			return
		}
		// What was accepted must read back whole.
		err = fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			r, err := fsys.Open(p)
			if err != nil {
				return err
			}
			defer r.Close()
			fi, err := r.Stat()
			if err != nil {
				return err
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != fi.Size() {
				return fmt.Errorf("%q: read %d of %d bytes: %w", p, n, fi.Size(), err)
			}
			return nil
		})
		if err != nil && !errors.Is(err, os.ErrInvalid) {
			t.Errorf("accepted, but does not read back: %v", err)
		}
	})
}
