package archive_test

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/archive"
	"golang.org/x/sys/unix"
)

// tree makes files in a new directory: "name" is a directory with a trailing
// slash, a link with " -> ", else a file with "=content".
func tree(t *testing.T, entries ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, e := range entries {
		var err error
		if name, target, ok := strings.Cut(e, " -> "); ok {
			err = os.Symlink(target, filepath.Join(dir, name))
		} else if name, content, ok := strings.Cut(e, "="); ok {
			err = os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640)
		} else {
			err = os.MkdirAll(filepath.Join(dir, e), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// list is tree's inverse, sorted.
func list(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		switch {
		case err != nil || rel == ".":
			return err
		case d.IsDir():
			out = append(out, rel+"/")
		case d.Type() == fs.ModeSymlink:
			to, _ := os.Readlink(p)
			out = append(out, rel+" -> "+to)
		default:
			b, err := os.ReadFile(p)
			out = append(out, rel+"="+string(b))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func root(t *testing.T, dir string) *archive.Root {
	t.Helper()
	r, err := archive.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// TestCopy: where things land, by docker's rules.
func TestCopy(t *testing.T) {
	src := []string{"d/", "d/sub/", "d/sub/f=1", "d/l -> /etc/passwd", "file=2", "tofile -> file"}
	for _, c := range []struct {
		name, from, to string
		follow         bool
		dst            []string
		want           []string // nil: an error
		err            string
	}{
		{name: "file to a new name", from: "/file", to: "/new", want: []string{"new=2"}},
		{name: "file into a directory", from: "/file", to: "/in", dst: []string{"in/"}, want: []string{"in/", "in/file=2"}},
		{name: "file over a file", from: "/file", to: "/old", dst: []string{"old=x"}, want: []string{"old=2"}},
		{
			name: "file over a link replaces the link", from: "/file", to: "/in", dst: []string{"in/", "victim=x", "in/file -> ../victim"},
			want: []string{"in/", "in/file=2", "victim=x"},
		},
		{name: "file to a directory that does not exist", from: "/file", to: "/none/", err: "no such directory"},
		{name: "file below a directory that does not exist", from: "/file", to: "/none/f", err: "no such file"},
		{name: "directory to a new name", from: "/d", to: "/new", want: []string{"new/", "new/l -> /etc/passwd", "new/sub/", "new/sub/f=1"}},
		{
			name: "directory into a directory", from: "/d/", to: "/in", dst: []string{"in/"},
			want: []string{"in/", "in/d/", "in/d/l -> /etc/passwd", "in/d/sub/", "in/d/sub/f=1"},
		},
		{
			name: "content into a directory", from: "/d/.", to: "/in", dst: []string{"in/", "in/sub/", "in/sub/g=3"},
			want: []string{"in/", "in/l -> /etc/passwd", "in/sub/", "in/sub/f=1", "in/sub/g=3"},
		},
		{name: "content to a new name", from: "/d/.", to: "/new", want: []string{"new/", "new/l -> /etc/passwd", "new/sub/", "new/sub/f=1"}},
		{name: "directory over a file", from: "/d", to: "/old", dst: []string{"old=x"}, err: "is not a directory"},
		{name: "link as it is", from: "/tofile", to: "/new", want: []string{"new -> file"}},
		{name: "link followed", from: "/tofile", to: "/new", follow: true, want: []string{"new=2"}},
		{name: "through links inside the root", from: "/file", to: "/abs/x", dst: []string{"real/", "abs -> /real"}, want: []string{"abs -> /real", "real/", "real/x=2"}},
		{name: "missing source", from: "/nothing", to: "/new", err: "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst := tree(t, c.dst...)
			r, w := io.Pipe()
			go func() { w.CloseWithError(archive.Pack(w, root(t, tree(t, src...)), c.from, c.follow)) }()
			err := archive.Unpack(r, root(t, dst), c.to, archive.Options{})
			r.Close()
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := list(t, dst); !slices.Equal(got, c.want) {
				t.Errorf("there is now\n%q, want\n%q", got, c.want)
			}
		})
	}
}

func stream(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	b := new(bytes.Buffer)
	w := tar.NewWriter(b)
	for i := range headers {
		h := &headers[i]
		if h.Typeflag == tar.TypeReg {
			h.Size = 1
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			_, _ = w.Write([]byte("x"))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHostileStreamsStayBelow: whatever a stream says, nothing appears beside
// its destination.
func TestHostileStreamsStayBelow(t *testing.T) {
	reg := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o4777} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	for _, c := range []struct {
		name    string
		headers []tar.Header
	}{
		{"dot dot", []tar.Header{reg("../out")}},
		{"dot dot inside", []tar.Header{reg("a/../../out")}},
		{"absolute", []tar.Header{reg("/out")}},
		{"through a link up", []tar.Header{link("l", ".."), reg("l/out")}},
		{"through an absolute link", []tar.Header{link("l", "/tmp"), reg("l/out")}},
		{"through two links", []tar.Header{{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}, link("a/b", "../.."), link("c", "a/b"), reg("c/out")}},
		{"directory through a link", []tar.Header{link("l", ".."), {Name: "l/out/", Typeflag: tar.TypeDir, Mode: 0o755}}},
		{"hard link out", []tar.Header{{Name: "h", Typeflag: tar.TypeLink, Linkname: "../secret"}}},
		{"hard link through a link", []tar.Header{link("l", ".."), {Name: "h", Typeflag: tar.TypeLink, Linkname: "l/secret"}}},
		{"device", []tar.Header{{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}},
		{"pipe", []tar.Header{{Name: "p", Typeflag: tar.TypeFifo}}},
		{"nothing", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree(t, "dest/", "secret=s")
			err := archive.Unpack(stream(t, c.headers...), root(t, dir), "/dest", archive.Options{Keep: true})
			if err == nil {
				t.Error("accepted")
			}
			for _, e := range list(t, dir) {
				if e != "secret=s" && !strings.HasPrefix(e, "dest/") {
					t.Errorf("appeared: %s", e)
				}
				if strings.HasSuffix(e, "=s") && e != "secret=s" {
					t.Errorf("leaked: %s", e)
				}
			}
		})
	}
	// A user's own stream is not renamed beside its top.
	err := archive.Unpack(stream(t, reg("a"), reg("b")), root(t, tree(t)), "/new", archive.Options{})
	if err == nil || !strings.Contains(err.Error(), "beside its top") {
		t.Errorf("two tops under one new name: %v", err)
	}
}

func TestModesAreHonouredAsAsked(t *testing.T) {
	for _, c := range []struct {
		keep bool
		want fs.FileMode
	}{{false, 0o755}, {true, 0o755 | fs.ModeSetuid}} {
		dir := tree(t)
		h := tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: os.Getuid(), Gid: os.Getgid()}
		if err := archive.Unpack(stream(t, h), root(t, dir), "/", archive.Options{Keep: c.keep}); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(filepath.Join(dir, "f"))
		if err != nil || st.Mode() != c.want {
			t.Errorf("keep %v: mode %v (%v), want %v", c.keep, st.Mode(), err, c.want)
		}
	}
}

// A stream that breaks off leaves what has come as it is to be.
func TestModesOfABrokenStream(t *testing.T) {
	dir := tree(t)
	whole, err := io.ReadAll(stream(t, tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o644}))
	if err != nil {
		t.Fatal(err)
	}
	if err := archive.Unpack(bytes.NewReader(whole[:600]), root(t, dir), "/", archive.Options{}); err == nil {
		t.Error("half a stream was one")
	}
	if st, err := os.Stat(filepath.Join(dir, "d")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v", st, err)
	}
}

// TestSpecialFilesAreNamed: a pipe in the tree is left out and said so; one
// that is asked for is refused, and not waited for.
func TestSpecialFilesAreNamed(t *testing.T) {
	dir := tree(t, "d/", "d/f=1")
	if err := unix.Mkfifo(filepath.Join(dir, "d/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := archive.Pack(&b, root(t, dir), "/d", false); err == nil || !strings.Contains(err.Error(), "d/pipe") {
		t.Errorf("a pipe left out: %v", err)
	}
	if err := archive.Pack(&b, root(t, dir), "/d/pipe", false); err == nil {
		t.Error("a pipe was copied")
	}
}

func FuzzUnpack(f *testing.F) {
	b := new(bytes.Buffer)
	w := tar.NewWriter(b)
	_ = w.WriteHeader(&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755})
	_ = w.WriteHeader(&tar.Header{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "../.."})
	_ = w.WriteHeader(&tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Size: 1})
	_, _ = w.Write([]byte("x"))
	_ = w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		dir := tree(t, "dest/")
		_ = archive.Unpack(bytes.NewReader(in), root(t, dir), "/dest", archive.Options{Keep: false})
		es, err := os.ReadDir(dir)
		if err != nil || len(es) != 1 {
			t.Fatalf("beside the destination: %v %v", es, err)
		}
	})
}
