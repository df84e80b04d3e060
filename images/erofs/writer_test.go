package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	goerofs "github.com/erofs/go-erofs"

	"github.com/hvctl/hvctl/images/erofs"
	"github.com/hvctl/hvctl/internal/testenv"
)

// image is a finished image in a file and the inodes it was made from.
type image struct {
	path string
	info erofs.Info
}

// build makes an image; fill adds to the root with the functions it is given.
func build(t *testing.T, fill func(w *erofs.Writer, root *erofs.Inode)) image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs.erofs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := erofs.NewWriter(f, erofs.Options{UUID: [16]byte{1, 2, 3}, Label: "test"})
	root := &erofs.Inode{Mode: erofs.ModeDir | 0o755}
	fill(w, root)
	info, err := w.Finish(root)
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if uint64(st.Size()) != info.Size || info.Size%erofs.BlockSize != 0 {
		t.Errorf("file has %d bytes, Info says %d", st.Size(), info.Size)
	}
	return image{path, info}
}

func data(t *testing.T, w *erofs.Writer, b []byte) erofs.Data {
	t.Helper()
	d, err := w.WriteData(bytes.NewReader(b), uint64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func add(dir *erofs.Inode, name string, n *erofs.Inode) *erofs.Inode {
	dir.Entries = append(dir.Entries, erofs.Dirent{Name: name, Inode: n})
	return n
}

// readers are the independent programs that check an image: the go-erofs
// library, and fsck.erofs where it is installed.
func open(t *testing.T, im image) fs.FS {
	t.Helper()
	if _, err := exec.LookPath("fsck.erofs"); err == nil {
		if out, err := exec.Command("fsck.erofs", im.path).CombinedOutput(); err != nil {
			t.Errorf("fsck.erofs: %v\n%s", err, out)
		}
	}
	f, err := os.Open(im.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	fsys, err := goerofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

func stat(t *testing.T, fsys fs.FS, name string) *goerofs.Stat {
	t.Helper()
	fi, err := fs.Stat(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*goerofs.Stat)
}

func TestContentsOfEverySizeReadBack(t *testing.T) {
	sizes := []int{1, 2047, 2048, 2049, 4095, 4096, 4097, 6143, 6144, 6145, 65535, 65536, 65537, 200_000}
	rnd := rand.New(rand.NewPCG(1, 2))
	want := map[string][]byte{"empty": {}}
	for _, n := range sizes {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32()) | 1
		}
		want[fmt.Sprintf("f%d", n)] = b
	}
	im := build(t, func(w *erofs.Writer, root *erofs.Inode) {
		for name, b := range want {
			add(root, name, &erofs.Inode{Mode: erofs.ModeRegular | 0o600, Data: data(t, w, b)})
		}
	})
	fsys := open(t, im)
	for name, b := range want {
		got, err := fs.ReadFile(fsys, name)
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(b))
		}
	}
	if im.info.Inodes != len(want)+1 {
		t.Errorf("%d inodes, want %d", im.info.Inodes, len(want)+1)
	}
}

func TestSparseFilesKeepTheirHoles(t *testing.T) {
	const mib = 1 << 20
	cases := map[string]struct {
		size int
		at   []int // offsets of single bytes that are not zero
	}{
		"all-hole":           {8 * mib, nil},
		"all-hole-odd":       {8*mib + 100, nil},
		"odd-in-last-chunk":  {mib + 5000, []int{0}},
		"tail-only":          {mib + 100, []int{mib + 99}},
		"start-only":         {mib + 100, []int{0}},
		"middle":             {3*mib + 4097, []int{mib + 7}},
		"short-of-a-chunk":   {60 << 10, nil},
		"large-chunks":       {1<<30 + 1<<20, []int{5, 1 << 30}},
		"last-block-in-hole": {1<<17 + 4096 + 100, []int{3}},
	}
	im := build(t, func(w *erofs.Writer, root *erofs.Inode) {
		for name, c := range cases {
			d, err := w.WriteData(&sparse{size: c.size, at: c.at}, uint64(c.size))
			if err != nil {
				t.Fatal(name, err)
			}
			add(root, name, &erofs.Inode{Mode: erofs.ModeRegular | 0o600, Data: d})
		}
	})
	if im.info.Size > 8*mib {
		t.Errorf("image of %d bytes: holes were stored", im.info.Size)
	}
	fsys := open(t, im)
	for name, c := range cases {
		f, err := fsys.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := same(f, &sparse{size: c.size, at: c.at}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// same compares two streams.
func same(got, want io.Reader) error {
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := 0; ; at += len(a) {
		n, errA := io.ReadFull(got, a)
		m, errB := io.ReadFull(want, b)
		if n != m || !bytes.Equal(a[:n], b[:m]) {
			return fmt.Errorf("differ within 1 MiB behind %d (%d and %d bytes)", at, n, m)
		}
		if !errors.Is(errA, errB) {
			return fmt.Errorf("at %d: %w, want %w", at+n, errA, errB)
		}
		if errA != nil {
			return nil
		}
	}
}

// sparse reads as zeros with a one at some offsets.
type sparse struct {
	size, pos int
	at        []int
}

func (s *sparse) Read(p []byte) (int, error) {
	if s.pos == s.size {
		return 0, io.EOF
	}
	n := min(len(p), s.size-s.pos)
	clear(p[:n])
	for _, a := range s.at {
		if a >= s.pos && a < s.pos+n {
			p[a-s.pos] = 1
		}
	}
	s.pos += n
	return n, nil
}

func TestMetadataReadsBack(t *testing.T) {
	im := build(t, func(w *erofs.Writer, root *erofs.Inode) {
		add(root, "suid", &erofs.Inode{
			Mode: erofs.ModeRegular | 0o4755, UID: 70000, GID: 4294967294, MtimeSec: 1700000000, MtimeNsec: 123456789,
			Data: data(t, w, []byte("x")),
			Xattrs: []erofs.Xattr{
				{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x04\x00\x00"},
				{Name: "user.empty", Value: ""},
				{Name: "user.long", Value: strings.Repeat("v", 3000)},
			},
		})
		add(root, "null", &erofs.Inode{Mode: erofs.ModeChar | 0o666, Major: 1, Minor: 3})
		add(root, "disk", &erofs.Inode{Mode: erofs.ModeBlock | 0o660, Major: 0xabc, Minor: 0xfedcb})
		add(root, "pipe", &erofs.Inode{Mode: erofs.ModeFifo | 0o600})
		add(root, "link", &erofs.Inode{Mode: erofs.ModeSymlink | 0o777, Target: "/etc/passwd"})
		add(root, "longlink", &erofs.Inode{Mode: erofs.ModeSymlink | 0o777, Target: strings.Repeat("a/", 2000)})
		add(root, "old", &erofs.Inode{Mode: erofs.ModeRegular | 0o600, MtimeSec: -1})
	})
	fsys := open(t, im)
	s := stat(t, fsys, "suid")
	if s.Mode != fs.ModeSetuid|0o755 || s.UID != 70000 || s.GID != 4294967294 || s.Mtime != 1700000000 || s.MtimeNs != 123456789 {
		t.Errorf("suid: %+v", s)
	}
	if len(s.Xattrs) != 3 || s.Xattrs["security.capability"] != "\x01\x00\x00\x02\x00\x04\x00\x00" || s.Xattrs["user.long"] != strings.Repeat("v", 3000) {
		t.Errorf("attributes: %d, %.80q", len(s.Xattrs), s.Xattrs)
	}
	if r := stat(t, fsys, "null").Rdev; r != 1<<8|3 {
		t.Errorf("null: device %#x", r)
	}
	if r := stat(t, fsys, "disk").Rdev; r != 0xcb|0xabc<<8|0xfed00<<12 {
		t.Errorf("disk: device %#x", r)
	}
	if m := stat(t, fsys, "pipe").Mode.Type(); m != fs.ModeNamedPipe {
		t.Errorf("pipe: %v", m)
	}
	for name, want := range map[string]string{"link": "/etc/passwd", "longlink": strings.Repeat("a/", 2000)} {
		if got, err := fs.ReadLink(fsys, name); err != nil || got != want {
			t.Errorf("%s: %.40q, %v", name, got, err)
		}
	}
}

func TestHardLinksShareAnInode(t *testing.T) {
	im := build(t, func(w *erofs.Writer, root *erofs.Inode) {
		n := add(root, "a", &erofs.Inode{Mode: erofs.ModeRegular | 0o644, Data: data(t, w, []byte("shared"))})
		sub := add(root, "sub", &erofs.Inode{Mode: erofs.ModeDir | 0o755})
		add(sub, "b", n)
		add(sub, "dir", &erofs.Inode{Mode: erofs.ModeDir | 0o755})
	})
	fsys := open(t, im)
	a, b := stat(t, fsys, "a"), stat(t, fsys, "sub/b")
	if a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("inodes %d and %d, %d links", a.Ino, b.Ino, a.Nlink)
	}
	if n := stat(t, fsys, ".").Nlink; n != 3 {
		t.Errorf("root has %d links, want 3", n)
	}
	if n := stat(t, fsys, "sub").Nlink; n != 3 {
		t.Errorf("sub has %d links, want 3", n)
	}
}

// TestLargeDirectory covers directories of many blocks, names around "." in the
// order of bytes, and names of the greatest length.
func TestLargeDirectory(t *testing.T) {
	want := []string{"!before-dot", "-x", strings.Repeat("z", 255), "\xff\xfe", "..x", ".x"}
	for i := range 5000 {
		want = append(want, fmt.Sprintf("%d-%s", i, strings.Repeat("n", i%200)))
	}
	im := build(t, func(w *erofs.Writer, root *erofs.Inode) {
		dir := add(root, "big", &erofs.Inode{Mode: erofs.ModeDir | 0o755})
		for _, n := range want {
			add(dir, n, &erofs.Inode{Mode: erofs.ModeRegular | 0o600})
		}
	})
	fsys := open(t, im)
	for _, n := range want {
		if _, err := fs.Stat(fsys, "big/"+n); err != nil {
			t.Errorf("%.20q: %v", n, err)
		}
	}
	es, err := fs.ReadDir(fsys, "big")
	if err != nil || len(es) != len(want) {
		t.Errorf("%d entries, %v; want %d", len(es), err, len(want))
	}
}

func TestSameTreeSameBytes(t *testing.T) {
	make1 := func() []byte {
		im := build(t, func(w *erofs.Writer, root *erofs.Inode) {
			for i := range 300 {
				add(root, fmt.Sprint("f", i), &erofs.Inode{Mode: erofs.ModeRegular | 0o600, Data: data(t, w, bytes.Repeat([]byte{byte(i)}, i*77))})
			}
		})
		b, err := os.ReadFile(im.path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if !bytes.Equal(make1(), make1()) {
		t.Error("two images of one tree differ")
	}
}

func TestUnusedContentsAreReported(t *testing.T) {
	im := build(t, func(w *erofs.Writer, root *erofs.Inode) {
		data(t, w, bytes.Repeat([]byte{1}, 3*4096))
		data(t, w, bytes.Repeat([]byte{2}, 4096))
		add(root, "kept", &erofs.Inode{Mode: erofs.ModeRegular, Data: data(t, w, bytes.Repeat([]byte{3}, 4096))})
		data(t, w, []byte("only a tail, no block"))
	})
	if len(im.info.Dead) != 1 || im.info.Dead[0] != (erofs.Range{Offset: 4096, Length: 4 * 4096}) {
		t.Errorf("dead ranges %v", im.info.Dead)
	}
}

func TestRefusesWhatTheFormatCannotHold(t *testing.T) {
	reg := func() *erofs.Inode { return &erofs.Inode{Mode: erofs.ModeRegular} }
	dir := func(es ...erofs.Dirent) *erofs.Inode { return &erofs.Inode{Mode: erofs.ModeDir, Entries: es} }
	shared := dir()
	cases := map[string]*erofs.Inode{
		"root is a file":      reg(),
		"slash in a name":     dir(erofs.Dirent{Name: "a/b", Inode: reg()}),
		"empty name":          dir(erofs.Dirent{Name: "", Inode: reg()}),
		"dot":                 dir(erofs.Dirent{Name: ".", Inode: reg()}),
		"long name":           dir(erofs.Dirent{Name: strings.Repeat("x", 256), Inode: reg()}),
		"name twice":          dir(erofs.Dirent{Name: "a", Inode: reg()}, erofs.Dirent{Name: "a", Inode: reg()}),
		"directory twice":     dir(erofs.Dirent{Name: "a", Inode: shared}, erofs.Dirent{Name: "b", Inode: shared}),
		"empty symlink":       dir(erofs.Dirent{Name: "a", Inode: &erofs.Inode{Mode: erofs.ModeSymlink}}),
		"no kind":             dir(erofs.Dirent{Name: "a", Inode: &erofs.Inode{Mode: 0o644}}),
		"attribute too large": dir(erofs.Dirent{Name: "a", Inode: &erofs.Inode{Mode: erofs.ModeRegular, Xattrs: []erofs.Xattr{{Name: "user.a", Value: strings.Repeat("x", 61<<10)}}}}),
		"attribute name":      dir(erofs.Dirent{Name: "a", Inode: &erofs.Inode{Mode: erofs.ModeRegular, Xattrs: []erofs.Xattr{{Name: "com.apple.x"}}}}),
		"device number":       dir(erofs.Dirent{Name: "a", Inode: &erofs.Inode{Mode: erofs.ModeChar, Major: 1 << 12}}),
	}
	for name, root := range cases {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "x"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := erofs.NewWriter(f, erofs.Options{}).Finish(root); !errors.Is(err, erofs.ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
}

func TestShortContentsAreAnError(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := erofs.NewWriter(f, erofs.Options{})
	for _, size := range []uint64{1, 5000, 100_000} {
		if _, err := w.WriteData(strings.NewReader(""), size); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

func TestMaxBytes(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := erofs.NewWriter(f, erofs.Options{MaxBytes: 1 << 20})
	if _, err := w.WriteData(io.LimitReader(neverZero{}, 2<<20), 2<<20); !errors.Is(err, erofs.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

type neverZero struct{}

func (neverZero) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 1
	}
	return len(p), nil
}

// TestKernelMounts lets the kernel judge: it mounts an image that has
// everything and reads it.
func TestKernelMounts(t *testing.T) {
	testenv.Require(t, testenv.Root)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	im := build(t, func(w *erofs.Writer, root *erofs.Inode) {
		n := add(root, "file", &erofs.Inode{
			Mode: erofs.ModeRegular | 0o4711, UID: 12, GID: 34, MtimeSec: 1e9, MtimeNsec: 5, Data: data(t, w, content),
			Xattrs: []erofs.Xattr{{Name: "user.one", Value: "1"}, {Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
		})
		add(root, "twin", n)
		d, err := w.WriteData(&sparse{size: 5<<20 + 99, at: []int{1 << 20, 5 << 20}}, 5<<20+99)
		if err != nil {
			t.Fatal(err)
		}
		add(root, "sparse", &erofs.Inode{Mode: erofs.ModeRegular | 0o644, Data: d})
		add(root, "attrs", &erofs.Inode{Mode: erofs.ModeRegular | 0o644, Data: data(t, w, []byte("behind long attributes")), Xattrs: []erofs.Xattr{
			{Name: "user.a", Value: strings.Repeat("a", 4000)}, {Name: "user.b", Value: strings.Repeat("b", 4000)}, {Name: "trusted.c", Value: "c"},
		}})
		big := add(root, "big", &erofs.Inode{Mode: erofs.ModeDir | 0o1777})
		for i := range 2000 {
			add(big, fmt.Sprintf("name-%d", i), &erofs.Inode{Mode: erofs.ModeSymlink | 0o777, Target: fmt.Sprintf("to-%d", i)})
		}
		add(root, "longlink", &erofs.Inode{Mode: erofs.ModeSymlink | 0o777, Target: strings.Repeat("a/", 2000)})
		add(root, "null", &erofs.Inode{Mode: erofs.ModeChar | 0o666, Major: 1, Minor: 3})
	})
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "ro,loop", im.path, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	sh := func(script, want string) {
		t.Helper()
		c := exec.Command("sh", "-ec", script)
		c.Dir = dir
		out, err := c.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", script, got, err, want)
		}
	}
	sh("stat -c '%a %u %g %h %Y %s' file", "4711 12 34 2 1000000000 16000")
	sh("test $(stat -c %i file) = $(stat -c %i twin) && echo same", "same")
	sh("stat -c '%s %t:%T' null", "0 1:3")
	sh("ls big | wc -l; readlink big/name-1999", "2000\nto-1999")
	sh("readlink longlink | wc -c", "4001")
	sh("cat attrs", "behind long attributes")
	sh("stat -c %s sparse; tail -c 99 sparse | head -c 1 | od -An -tx1; dd if=sparse bs=1 skip=1048576 count=2 2>/dev/null | od -An -tx1", fmt.Sprintf("%d\n 01\n 01 00", 5<<20+99))
	got, err := os.ReadFile(filepath.Join(dir, "twin"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("twin: %d bytes, %v", len(got), err)
	}
	for name, want := range map[string]string{"file user.one": "1", "attrs user.b": strings.Repeat("b", 4000), "attrs trusted.c": "c"} {
		file, attr, _ := strings.Cut(name, " ")
		if got := getxattr(t, filepath.Join(dir, file), attr); got != want {
			t.Errorf("%s: %.40q", name, got)
		}
	}
}
