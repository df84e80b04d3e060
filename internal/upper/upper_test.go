package upper_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/upper"
	"golang.org/x/sys/unix"
)

// list is what a stream says, sorted.
func list(t *testing.T, b []byte) (out []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(out)
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, _ := io.ReadAll(r)
		link := h.Linkname
		if h.Typeflag == tar.TypeLink || h.Typeflag == tar.TypeReg && (strings.HasSuffix(h.Name, "one") || strings.HasSuffix(h.Name, "two")) {
			link, h.Name, h.Typeflag, content = "", "a pair", 0, nil // which of them comes first is the file system's choice
		}
		if h.Typeflag == tar.TypeSymlink {
			h.ModTime = testTime // that of its making
		}
		attr := h.PAXRecords["SCHILY.xattr.security.capability"]
		out = append(out, fmt.Sprintf("%s %c %o %d:%d %d %q %q %q", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, h.ModTime.UnixNano(), link, content, attr))
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// testTime is in the past.
var testTime = time.Unix(1e9, 5)

// capability is a file's: version 2, cap_net_raw, permitted and effective.
var capability = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// A real overlay's upper directory goes through a stream into another, and a second overlay
// on that shows the same tree.
func TestALayerComesAsItWas(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	in := func(s ...string) string { return filepath.Join(append([]string{dir}, s...)...) }
	mount := func(n string) {
		must(t, unix.Mount("overlay", in("root"+n), "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", in("image"), in("layer"+n, "upper"), in("layer"+n, "work"))))
		t.Cleanup(func() { _ = unix.Unmount(in("root"+n), unix.MNT_DETACH) })
	}
	for _, n := range []string{"1", "2"} {
		must(t, os.MkdirAll(in("root"+n), 0o755), os.Mkdir(in("layer"+n), 0o755), unix.Mount("tmpfs", in("layer"+n), "tmpfs", 0, ""))
		t.Cleanup(func() { _ = unix.Unmount(in("layer"+n), unix.MNT_DETACH) })
		must(t, os.Mkdir(in("layer"+n, "upper"), 0o755), os.Mkdir(in("layer"+n, "work"), 0o755))
	}
	for _, f := range []string{"lost", "kept", "d/old", "replaced/old"} {
		must(t, os.MkdirAll(filepath.Dir(in("image", f)), 0o755), os.WriteFile(in("image", f), []byte(f), 0o644))
	}
	mount("1")
	r := func(s string) string { return in("root1", s) }
	must(t, os.Remove(r("lost")), os.RemoveAll(r("replaced")), os.Mkdir(r("replaced"), 0o711), os.WriteFile(r("replaced/new"), []byte("n"), 0o600),
		os.WriteFile(r("one"), []byte("x"), 0o600), os.Link(r("one"), r("two")), os.Symlink("/etc/passwd", r("l")), unix.Mkfifo(r("pipe"), 0o640),
		os.WriteFile(r("d/su"), []byte("s"), 0o755), os.Chown(r("d/su"), 12, 34), unix.Chmod(r("d/su"), 0o4755),
		os.WriteFile(r("ping"), nil, 0o755), unix.Setxattr(r("ping"), "security.capability", capability, 0), os.Mkdir(r("closed"), 0), os.Chtimes(r("closed"), testTime, testTime))
	var b bytes.Buffer
	must(t, upper.Pack(&b, in("layer1", "upper"), upper.Trusted))
	must(t, upper.Unpack(bytes.NewReader(b.Bytes()), in("layer2", "upper"), upper.Trusted))
	var again bytes.Buffer
	must(t, upper.Pack(&again, in("layer2", "upper"), upper.Trusted))
	got, want := list(t, again.Bytes()), list(t, b.Bytes())
	if !slices.Equal(got, want) {
		t.Fatalf("there is now\n%s, want\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	mount("2")
	for f, want := range map[string]string{"lost": "", "replaced/old": "", "kept": "kept", "d/old": "d/old", "replaced/new": "n", "two": "x"} {
		if b, err := os.ReadFile(in("root2", f)); string(b) != want || (err != nil) != (want == "") {
			t.Errorf("%s is %q (%v), want %q", f, b, err, want)
		}
	}
	var one, two unix.Stat_t
	must(t, unix.Stat(in("root2", "one"), &one), unix.Stat(in("root2", "two"), &two))
	if one.Ino != two.Ino {
		t.Error("the two names are two files")
	}
}

func TestWhatCannotGoAlongIsNamed(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for name, make := range map[string]func(path string) error{
		"a device": func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, 1<<8|3) },
		"redirect": func(p string) error {
			return errors.Join(os.Mkdir(p, 0o755), unix.Setxattr(p, "trusted.overlay.redirect", []byte("x"), 0))
		},
		"begins with ": func(p string) error { return os.WriteFile(filepath.Join(filepath.Dir(p), ".wh.x"), nil, 0o600) },
	} {
		dir := t.TempDir()
		must(t, make(filepath.Join(dir, "thing")))
		if err := upper.Pack(io.Discard, dir, upper.Trusted); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func stream(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range headers {
		if err := w.WriteHeader(&headers[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var hostile = map[string][]tar.Header{
	"dot dot":              {{Name: "../out", Typeflag: tar.TypeReg}},
	"absolute":             {{Name: "/out", Typeflag: tar.TypeReg}},
	"the top":              {{Name: ".", Typeflag: tar.TypeDir}},
	"through a link":       {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/out", Typeflag: tar.TypeReg}},
	"hard link out":        {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../secret"}},
	"removes above":        {{Name: ".wh...", Typeflag: tar.TypeReg}},
	"removes through":      {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/.wh.secret", Typeflag: tar.TypeReg}},
	"removes a mark":       {{Name: ".wh..wh.x", Typeflag: tar.TypeReg}},
	"twice":                {{Name: "f", Typeflag: tar.TypeReg}, {Name: "f", Typeflag: tar.TypeReg}},
	"device":               {{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
	"overlayfs's own mark": {{Name: "d/", Typeflag: tar.TypeDir, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/x"}}},
	"security label":       {{Name: "f", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.security.selinux": "x"}}},
}

func TestHostileLayersStayBelow(t *testing.T) {
	for name, headers := range hostile {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "secret"), nil, 0o600), os.Mkdir(filepath.Join(dir, "layer"), 0o755))
			for i := range headers {
				headers[i].Uid, headers[i].Gid = os.Getuid(), os.Getgid()
			}
			if err := upper.Unpack(bytes.NewReader(stream(t, headers...)), filepath.Join(dir, "layer"), upper.Trusted); err == nil {
				t.Error("accepted")
			}
			if es, err := os.ReadDir(dir); err != nil || len(es) != 2 {
				t.Errorf("beside the layer: %v %v", es, err)
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	for _, headers := range hostile {
		f.Add(stream(f, headers...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		must(t, os.Mkdir(filepath.Join(dir, "layer"), 0o755))
		_ = upper.Unpack(bytes.NewReader(b), filepath.Join(dir, "layer"), upper.Trusted)
		if es, err := os.ReadDir(dir); err != nil || len(es) != 1 {
			t.Fatalf("beside the layer: %v %v", es, err)
		}
	})
}
