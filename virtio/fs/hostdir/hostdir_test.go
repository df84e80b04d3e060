package hostdir_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/virtio/fs/hostdir"
	"golang.org/x/sys/unix"
)

const root = fuse.FUSE_ROOT_ID

// share serves a new directory that make has filled.
func share(t *testing.T, o hostdir.Options, fill func(dir string)) (*hostdir.FS, string) {
	t.Helper()
	dir := t.TempDir()
	if fill != nil {
		fill(dir)
	}
	if o.Path == "" {
		o.Path = dir
	} else {
		o.Path = filepath.Join(dir, o.Path)
	}
	fs, err := hostdir.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	return fs, dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func at(node uint64) *fuse.InHeader { return &fuse.InHeader{NodeId: node} }

func lookup(t *testing.T, fs *hostdir.FS, dir uint64, name string) fuse.EntryOut {
	t.Helper()
	var out fuse.EntryOut
	if code := fs.Lookup(nil, at(dir), name, &out); code != fuse.OK {
		t.Fatalf("lookup of %q: %v", name, code)
	}
	return out
}

// read opens a node and reads its first bytes.
func read(fs *hostdir.FS, node uint64) (string, fuse.Status) {
	var out fuse.OpenOut
	if code := fs.Open(nil, &fuse.OpenIn{InHeader: *at(node)}, &out); code != fuse.OK {
		return "", code
	}
	defer fs.Release(nil, &fuse.ReleaseIn{Fh: out.Fh})
	res, code := fs.Read(nil, &fuse.ReadIn{Fh: out.Fh, Size: 100}, nil)
	if code != fuse.OK {
		return "", code
	}
	defer res.Done()
	b, code := res.Bytes(make([]byte, 100))
	return string(b), code
}

func TestNamesThatLeadOutAreRefused(t *testing.T) {
	fs, _ := share(t, hostdir.Options{Path: "in"}, func(dir string) {
		write(t, filepath.Join(dir, "secret"), "s")
		write(t, filepath.Join(dir, "in/a/b"), "b")
	})
	for _, name := range []string{"", ".", "..", "a/b", "/etc/passwd", "../secret", "a/../../secret", "a\x00b"} {
		var out fuse.EntryOut
		if code := fs.Lookup(nil, at(root), name, &out); code.Ok() {
			t.Errorf("lookup of %q succeeded", name)
		}
		if code := fs.Mkdir(nil, &fuse.MkdirIn{InHeader: *at(root), Mode: 0o755}, name, &out); code.Ok() {
			t.Errorf("mkdir of %q succeeded", name)
		}
		if code := fs.Unlink(nil, at(root), name); code.Ok() {
			t.Errorf("unlink of %q succeeded", name)
		}
		if code := fs.Rename(nil, &fuse.RenameIn{InHeader: *at(root), Newdir: root}, "a", name); code.Ok() {
			t.Errorf("rename to %q succeeded", name)
		}
	}
}

func TestSymbolicLinksAreNotFollowed(t *testing.T) {
	fs, dir := share(t, hostdir.Options{Path: "in"}, func(dir string) {
		write(t, filepath.Join(dir, "out/secret"), "s")
		write(t, filepath.Join(dir, "in/x"), "x")
		for name, target := range map[string]string{"file": "out/secret", "dir": "out"} {
			if err := os.Symlink(filepath.Join(dir, target), filepath.Join(dir, "in", name)); err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, name := range []string{"file", "dir"} {
		link := lookup(t, fs, root, name)
		if link.Mode&unix.S_IFMT != unix.S_IFLNK {
			t.Errorf("%s looks like %o, not like a link", name, link.Mode)
		}
		if got, code := read(fs, link.NodeId); code.Ok() {
			t.Errorf("opened %s: %q", name, got)
		}
		var out fuse.EntryOut
		if code := fs.Lookup(nil, at(link.NodeId), "secret", &out); code.Ok() {
			t.Errorf("found secret below the link %s", name)
		}
		if code := fs.OpenDir(nil, &fuse.OpenIn{InHeader: *at(link.NodeId)}, &fuse.OpenOut{}); code.Ok() {
			t.Errorf("opened the link %s as a directory", name)
		}
		in := &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: *at(link.NodeId), Valid: fuse.FATTR_MODE | fuse.FATTR_SIZE, Mode: 0o777}}
		fs.SetAttr(nil, in, &fuse.AttrOut{})
		if b, code := fs.Readlink(nil, at(link.NodeId)); !code.Ok() || filepath.Dir(string(b)) == "." {
			t.Errorf("readlink: %q, %v", b, code)
		}
	}
	var out fuse.CreateOut
	if code := fs.Create(nil, &fuse.CreateIn{InHeader: *at(root), Flags: unix.O_RDWR | unix.O_TRUNC, Mode: 0o600}, "file", &out); code.Ok() {
		t.Error("create opened what the link points to")
	}
	if b, err := os.ReadFile(filepath.Join(dir, "out/secret")); string(b) != "s" || err != nil {
		t.Errorf("secret is now %q, %v", b, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "out/secret")); err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("secret has mode %v, %v", st.Mode(), err)
	}
}

// Somebody on the host swaps a directory with a link to one outside, as fast
// as they can, while the client walks through it.
func TestSwappedDirectoryNeverLeadsOut(t *testing.T) {
	fs, dir := share(t, hostdir.Options{Path: "in"}, func(dir string) {
		write(t, filepath.Join(dir, "out/file"), "outside")
		write(t, filepath.Join(dir, "in/d/file"), "inside")
		if err := os.Symlink(filepath.Join(dir, "out"), filepath.Join(dir, "in/l")); err != nil {
			t.Fatal(err)
		}
	})
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				stopped <- n
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, dir+"/in/d", unix.AT_FDCWD, dir+"/in/l", unix.RENAME_EXCHANGE)
			}
		}
	}()
	inside, links := 0, 0
	for i := 0; i < 20_000 || inside == 0 || links == 0; i++ {
		if i == 2_000_000 {
			t.Fatalf("saw the directory %d times and the link %d times", inside, links)
		}
		var d, f fuse.EntryOut
		if !fs.Lookup(nil, at(root), "d", &d).Ok() {
			continue
		}
		if fs.Lookup(nil, at(d.NodeId), "file", &f).Ok() {
			got, code := read(fs, f.NodeId)
			if got != "inside" || !code.Ok() {
				t.Fatalf("read %q, %v", got, code)
			}
			inside++
			fs.Forget(f.NodeId, 1)
		} else {
			links++
		}
		fs.Forget(d.NodeId, 1)
	}
	close(stop)
	t.Logf("%d swaps; %d walks into the directory, %d into the link", <-stopped, inside, links)
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	fs, _ := share(t, hostdir.Options{}, func(dir string) {
		if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			if err := unix.Mknod(filepath.Join(dir, "dev"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
				t.Fatal(err)
			}
		}
	})
	names := []string{"fifo"}
	if os.Geteuid() == 0 {
		names = append(names, "dev")
	}
	for _, name := range names {
		if _, code := read(fs, lookup(t, fs, root, name).NodeId); code != fuse.EPERM {
			t.Errorf("opening %s: %v", name, code)
		}
		var out fuse.CreateOut
		if code := fs.Create(nil, &fuse.CreateIn{InHeader: *at(root), Flags: unix.O_RDWR, Mode: 0o600}, name, &out); code != fuse.EPERM {
			t.Errorf("creating over %s: %v", name, code)
		}
	}
	for _, kind := range []uint32{unix.S_IFCHR, unix.S_IFBLK, unix.S_IFLNK, unix.S_IFDIR} {
		var out fuse.EntryOut
		if code := fs.Mknod(nil, &fuse.MknodIn{InHeader: *at(root), Mode: kind | 0o666, Rdev: 0x103}, "n", &out); code != fuse.EPERM {
			t.Errorf("mknod of type %o: %v", kind, code)
		}
	}
}

func TestReadOnlyShareRefusesEveryChange(t *testing.T) {
	fs, _ := share(t, hostdir.Options{ReadOnly: true}, func(dir string) { write(t, filepath.Join(dir, "f"), "f") })
	f := lookup(t, fs, root, "f").NodeId
	var entry fuse.EntryOut
	for name, do := range map[string]func() fuse.Status{
		"mkdir": func() fuse.Status { return fs.Mkdir(nil, &fuse.MkdirIn{InHeader: *at(root)}, "d", &entry) },
		"mknod": func() fuse.Status {
			return fs.Mknod(nil, &fuse.MknodIn{InHeader: *at(root), Mode: unix.S_IFREG}, "d", &entry)
		},
		"symlink": func() fuse.Status { return fs.Symlink(nil, at(root), "x", "d", &entry) },
		"link":    func() fuse.Status { return fs.Link(nil, &fuse.LinkIn{InHeader: *at(root), Oldnodeid: f}, "d", &entry) },
		"create": func() fuse.Status {
			return fs.Create(nil, &fuse.CreateIn{InHeader: *at(root), Flags: unix.O_RDWR}, "d", &fuse.CreateOut{})
		},
		"unlink": func() fuse.Status { return fs.Unlink(nil, at(root), "f") },
		"rmdir":  func() fuse.Status { return fs.Rmdir(nil, at(root), "f") },
		"rename": func() fuse.Status { return fs.Rename(nil, &fuse.RenameIn{InHeader: *at(root), Newdir: root}, "f", "g") },
		"setattr": func() fuse.Status {
			return fs.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: *at(f), Valid: fuse.FATTR_MODE}}, &fuse.AttrOut{})
		},
		"open to write": func() fuse.Status {
			return fs.Open(nil, &fuse.OpenIn{InHeader: *at(f), Flags: unix.O_RDWR}, &fuse.OpenOut{})
		},
		"open to truncate": func() fuse.Status {
			return fs.Open(nil, &fuse.OpenIn{InHeader: *at(f), Flags: unix.O_RDONLY | unix.O_TRUNC}, &fuse.OpenOut{})
		},
		"setxattr":    func() fuse.Status { return fs.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: *at(f)}, "user.a", nil) },
		"removexattr": func() fuse.Status { return fs.RemoveXAttr(nil, at(f), "user.a") },
		"fallocate":   func() fuse.Status { return fs.Fallocate(nil, &fuse.FallocateIn{InHeader: *at(f)}) },
		"write": func() fuse.Status {
			_, code := fs.Writev(nil, &fuse.WriteIn{InHeader: *at(f)}, nil)
			return code
		},
		"copy": func() fuse.Status {
			_, code := fs.CopyFileRange(nil, &fuse.CopyFileRangeIn{InHeader: *at(f)})
			return code
		},
	} {
		if code := do(); code != fuse.EROFS {
			t.Errorf("%s: %v", name, code)
		}
	}
	if got, code := read(fs, f); got != "f" || !code.Ok() {
		t.Errorf("reading: %q, %v", got, code)
	}
}

func TestOneFileIsServedAlone(t *testing.T) {
	fs, _ := share(t, hostdir.Options{Path: "etc/one"}, func(dir string) {
		write(t, filepath.Join(dir, "etc/one"), "1")
		write(t, filepath.Join(dir, "etc/two"), "2")
	})
	if fs.Only() != "one" {
		t.Errorf("Only = %q", fs.Only())
	}
	if got, _ := read(fs, lookup(t, fs, root, "one").NodeId); got != "1" {
		t.Errorf("read %q", got)
	}
	var out fuse.EntryOut
	if code := fs.Lookup(nil, at(root), "two", &out); code != fuse.ENOENT {
		t.Errorf("lookup of its neighbour: %v", code)
	}
	if code := fs.Mkdir(nil, &fuse.MkdirIn{InHeader: *at(root)}, "new", &out); code != fuse.ENOENT {
		t.Errorf("mkdir beside it: %v", code)
	}
	if names := list(t, fs, false); len(names) != 1 || names["one"] != 0 {
		t.Errorf("listing: %v", names)
	}
}

func TestWhatDoesNotExistIsAnErrorThatNamesIt(t *testing.T) {
	_, err := hostdir.New(hostdir.Options{Path: "/nonexistent/dir"})
	if err == nil || err.Error() != "shared directory /nonexistent/dir: no such file or directory" {
		t.Error(err)
	}
}

// What is mounted below and is no data is an empty directory: proc has the
// memory of this very process.
func TestKernelsOwnFileSystemsAreShownEmpty(t *testing.T) {
	testenv.Require(t, testenv.Root)
	fs, dir := share(t, hostdir.Options{}, func(dir string) {
		for _, d := range []string{"proc", "data"} {
			if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		write(t, filepath.Join(dir, "version"), "")
		for _, m := range [][3]string{{"proc", "proc", "proc"}, {"tmpfs", "data", "tmpfs"}} {
			if err := unix.Mount(m[0], filepath.Join(dir, m[1]), m[2], 0, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mount("/proc/version", filepath.Join(dir, "version"), "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "data/f"), "f")
	})
	t.Cleanup(func() {
		for _, d := range []string{"proc", "data", "version"} {
			if err := unix.Unmount(filepath.Join(dir, d), unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	})
	if got, _ := read(fs, lookup(t, fs, lookup(t, fs, root, "data").NodeId, "f").NodeId); got != "f" {
		t.Errorf("a tmpfs below: read %q", got)
	}
	if got, code := read(fs, lookup(t, fs, root, "version").NodeId); code != fuse.EPERM {
		t.Errorf("a file of proc that is bound here: read %q, %v", got, code)
	}
	proc := lookup(t, fs, root, "proc").NodeId
	var e fuse.EntryOut
	for _, name := range []string{"self", "1", "version"} {
		if code := fs.Lookup(nil, at(proc), name, &e); code != fuse.ENOENT {
			t.Errorf("lookup of proc/%s: %v", name, code)
		}
	}
	if code := fs.Mkdir(nil, &fuse.MkdirIn{InHeader: *at(proc), Mode: 0o755}, "x", &e); code.Ok() {
		t.Error("mkdir in proc")
	}
	var open fuse.OpenOut
	if code := fs.OpenDir(nil, &fuse.OpenIn{InHeader: *at(proc)}, &open); !code.Ok() {
		t.Fatal(code)
	}
	list := fuse.NewDirEntryList(make([]byte, 4096), 0)
	if code := fs.ReadDir(nil, &fuse.ReadIn{Fh: open.Fh}, list); !code.Ok() || len(list.Bytes()) > 0 {
		t.Errorf("listing: %d bytes, %v", len(list.Bytes()), code)
	}
	fs.ReleaseDir(&fuse.ReleaseIn{Fh: open.Fh})
	if _, err := hostdir.New(hostdir.Options{Path: "/proc/self"}); err == nil || !strings.Contains(err.Error(), "/proc/self") {
		t.Errorf("sharing /proc/self: %v", err)
	}
}
