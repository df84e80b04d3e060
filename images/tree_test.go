package images_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/testenv"
)

// TestTreeIsTheImageUnpacked: owners, modes, links and devices, made once, and
// pruned with the image.
func TestTreeIsTheImageUnpacked(t *testing.T) {
	testenv.Require(t, testenv.Root)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 1, Gid: 2},
		{Name: "d/su", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 3, Gid: 4, Size: 4},
		{Name: "d/same", Typeflag: tar.TypeLink, Linkname: "d/su"},
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd", Uid: 5},
		{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = w.Write([]byte("text"))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t)
	im, err := s.Import(t.Context(), write(t, "r.tar", b.Bytes()), "a", images.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fs, err := s.Rootfs(t.Context(), im, images.RootfsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := s.Tree(t.Context(), fs)
	if err != nil {
		t.Fatal(err)
	}
	stat := func(name string) *syscall.Stat_t {
		t.Helper()
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return fi.Sys().(*syscall.Stat_t)
	}
	for _, c := range []struct {
		name       string
		mode       uint32
		uid, nlink int
	}{
		{"d", syscall.S_IFDIR | 0o1777, 1, 2},
		{"d/su", syscall.S_IFREG | 0o4755, 3, 2},
		{"out", syscall.S_IFLNK | 0o777, 5, 1},
		{"null", syscall.S_IFCHR | 0o666, 0, 1},
		{"pipe", syscall.S_IFIFO | 0o600, 0, 1},
	} {
		if st := stat(c.name); st.Mode != c.mode || int(st.Uid) != c.uid || int(st.Nlink) != c.nlink {
			t.Errorf("%s: mode %o, user %d, %d names; want %+v", c.name, st.Mode, st.Uid, st.Nlink, c)
		}
	}
	if stat("d/su").Ino != stat("d/same").Ino {
		t.Error("a file of two names became two")
	}
	if stat("null").Rdev != 1<<8|3 {
		t.Errorf("null is device %#x", stat("null").Rdev)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "d/same")); err != nil || string(got) != "text" {
		t.Errorf("%q, %v", got, err)
	}
	if st, err := os.Stat(filepath.Dir(dir)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("everybody reaches the programs in it: %v, %v", st.Mode(), err)
	}
	if again, err := s.Tree(t.Context(), fs); err != nil || again != dir {
		t.Errorf("the second time: %s, %v", again, err)
	}
	if _, err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	stat("d") // it lives as long as the image
	if _, err := s.Remove(t.Context(), "a", false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Error("it outlived its image")
	}
}
