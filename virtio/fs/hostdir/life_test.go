package hostdir_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/virtio/fs/hostdir"
	"golang.org/x/sys/unix"
)

// list lists the root directory: names with their node IDs, 0 for a listing
// without lookups.
func list(t *testing.T, fs *hostdir.FS, plus bool) map[string]uint64 {
	t.Helper()
	var open fuse.OpenOut
	if code := fs.OpenDir(nil, &fuse.OpenIn{InHeader: *at(root)}, &open); !code.Ok() {
		t.Fatal(code)
	}
	defer fs.ReleaseDir(&fuse.ReleaseIn{Fh: open.Fh})
	names := map[string]uint64{}
	for pos := uint64(0); ; {
		buf := make([]byte, 512) // small, so that it takes several calls
		out := fuse.NewDirEntryList(buf, pos)
		in := &fuse.ReadIn{InHeader: *at(root), Fh: open.Fh, Offset: pos, Size: uint32(len(buf))}
		head, call := 0, fs.ReadDir
		if plus {
			head, call = 128, fs.ReadDirPlus
		}
		if code := call(nil, in, out); !code.Ok() {
			t.Fatal(code)
		}
		rest := out.Bytes()
		if len(rest) == 0 {
			return names
		}
		for len(rest) > 0 {
			d := rest[head:]
			size := int(binary.LittleEndian.Uint32(d[16:]))
			name := string(d[24 : 24+size])
			pos = binary.LittleEndian.Uint64(d[8:])
			if name != "." && name != ".." {
				names[name] = 0
				if plus {
					names[name] = binary.LittleEndian.Uint64(rest)
				}
			}
			rest = rest[head+(24+size+7)&^7:]
		}
	}
}

func TestListingShowsEveryEntryOnce(t *testing.T) {
	fs, _ := share(t, hostdir.Options{}, func(dir string) {
		for i := range 100 {
			write(t, filepath.Join(dir, fmt.Sprintf("file%03d", i)), "x")
		}
	})
	if names := list(t, fs, false); len(names) != 100 {
		t.Errorf("%d names", len(names))
	}
	plus := list(t, fs, true)
	if len(plus) != 100 {
		t.Errorf("%d names with nodes", len(plus))
	}
	for name, id := range plus {
		if again := lookup(t, fs, root, name).NodeId; id != again {
			t.Errorf("%s: node %d in the listing, %d by name", name, id, again)
		}
		fs.Forget(id, 1)
		if nodes, _ := fs.InUse(); nodes == 1 {
			t.Fatalf("%s is forgotten though it was given out twice", name)
		}
		fs.Forget(id, 1)
	}
	// Entries that did not fit may have been looked up all the same; what
	// matters is that the client was told of all that it has to forget.
	if nodes, handles := fs.InUse(); nodes != 1 || handles != 0 {
		t.Errorf("%d nodes and %d handles are left", nodes, handles)
	}
}

func TestForgottenNodesAreGone(t *testing.T) {
	fs, _ := share(t, hostdir.Options{}, func(dir string) { write(t, filepath.Join(dir, "f"), "x") })
	f := lookup(t, fs, root, "f")
	fs.Forget(f.NodeId, 1<<60) // more than was given
	fs.Forget(f.NodeId, 1)
	fs.Forget(root, 1<<60)
	fs.Forget(12345, 1)
	if code := fs.GetAttr(nil, &fuse.GetAttrIn{InHeader: *at(f.NodeId)}, &fuse.AttrOut{}); code != fuse.Status(unix.ESTALE) {
		t.Errorf("attributes of a forgotten node: %v", code)
	}
	if again := lookup(t, fs, root, "f"); again.NodeId == f.NodeId {
		t.Error("a node ID was used twice")
	}
}

func TestClientCannotHoldMoreThanItsShareOfDescriptors(t *testing.T) {
	fs, _ := share(t, hostdir.Options{MaxNodes: 3}, func(dir string) {
		for _, n := range []string{"a", "b", "c"} {
			write(t, filepath.Join(dir, n), "x")
		}
	})
	a := lookup(t, fs, root, "a")
	lookup(t, fs, root, "b")
	var out fuse.EntryOut
	if code := fs.Lookup(nil, at(root), "c", &out); code != fuse.Status(unix.ENFILE) {
		t.Errorf("one too many: %v", code)
	}
	fs.Forget(a.NodeId, 1)
	lookup(t, fs, root, "c")
}

func TestResetForgetsTheClient(t *testing.T) {
	fs, _ := share(t, hostdir.Options{}, func(dir string) { write(t, filepath.Join(dir, "f"), "x") })
	f := lookup(t, fs, root, "f")
	var open fuse.OpenOut
	if code := fs.Open(nil, &fuse.OpenIn{InHeader: *at(f.NodeId)}, &open); !code.Ok() {
		t.Fatal(code)
	}
	fs.Reset()
	if nodes, handles := fs.InUse(); nodes != 1 || handles != 0 {
		t.Errorf("%d nodes and %d handles are left", nodes, handles)
	}
	if _, code := read(fs, lookup(t, fs, root, "f").NodeId); !code.Ok() {
		t.Errorf("after the reset: %v", code)
	}
}

// Releases, forgets and reads of the same things at the same time: a
// descriptor that was closed and means another file by now is never used.
func TestUseAndReleaseAtOnce(t *testing.T) {
	fs, _ := share(t, hostdir.Options{}, func(dir string) {
		write(t, filepath.Join(dir, "a"), "a")
		write(t, filepath.Join(dir, "b"), "b")
	})
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "a", "b"} {
		wg.Go(func() {
			for range 2000 {
				var e fuse.EntryOut
				if !fs.Lookup(nil, at(root), name, &e).Ok() {
					t.Error("lookup failed")
					return
				}
				var open fuse.OpenOut
				if !fs.Open(nil, &fuse.OpenIn{InHeader: *at(e.NodeId)}, &open).Ok() {
					t.Error("open failed")
					return
				}
				res, code := fs.Read(nil, &fuse.ReadIn{Fh: open.Fh, Size: 10}, nil)
				fs.Release(nil, &fuse.ReleaseIn{Fh: open.Fh}) // before the read is done
				if !code.Ok() {
					t.Error(code)
					return
				}
				b, code := res.Bytes(make([]byte, 10))
				res.Done()
				if string(b) != name || !code.Ok() {
					t.Errorf("%s holds %q, %v", name, b, code)
					return
				}
				fs.Forget(e.NodeId, 1)
			}
		})
	}
	wg.Wait()
	if nodes, handles := fs.InUse(); nodes != 1 || handles != 0 {
		t.Errorf("%d nodes and %d handles are left", nodes, handles)
	}
}

func TestFilesBelongToTheClientsUser(t *testing.T) {
	testenv.Require(t, testenv.Root)
	old := unix.Umask(0o077) // ours is not the client's
	defer unix.Umask(old)
	fs, dir := share(t, hostdir.Options{}, nil)
	if err := os.Mkdir(filepath.Join(dir, "shared"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chown(filepath.Join(dir, "shared"), 0, 77); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(filepath.Join(dir, "shared"), 0o2770); err != nil {
		t.Fatal(err)
	}
	sgid := lookup(t, fs, root, "shared").NodeId
	user := func(node uint64) fuse.InHeader {
		return fuse.InHeader{NodeId: node, Caller: fuse.Caller{Owner: fuse.Owner{Uid: 1234, Gid: 5678}}}
	}
	var e fuse.EntryOut
	for name, c := range map[string]struct {
		do       func(name string) fuse.Status
		uid, gid uint32
		mode     uint32
	}{
		"dir": {func(n string) fuse.Status {
			return fs.Mkdir(nil, &fuse.MkdirIn{InHeader: user(root), Mode: 0o755}, n, &e)
		}, 1234, 5678, unix.S_IFDIR | 0o755},
		"fifo": {func(n string) fuse.Status {
			return fs.Mknod(nil, &fuse.MknodIn{InHeader: user(root), Mode: unix.S_IFIFO | 0o620}, n, &e)
		}, 1234, 5678, unix.S_IFIFO | 0o620},
		"symlink": {func(n string) fuse.Status { h := user(root); return fs.Symlink(nil, &h, "x", n, &e) }, 1234, 5678, unix.S_IFLNK | 0o777},
		"file": {func(n string) fuse.Status {
			return fs.Create(nil, &fuse.CreateIn{InHeader: user(root), Mode: 0o666, Flags: unix.O_RDWR}, n, &fuse.CreateOut{})
		}, 1234, 5678, unix.S_IFREG | 0o666},
		"shared/dir": {func(string) fuse.Status {
			return fs.Mkdir(nil, &fuse.MkdirIn{InHeader: user(sgid), Mode: 0o750}, "dir", &e)
		}, 1234, 77, unix.S_IFDIR | 0o2750},
		"shared/file": {func(string) fuse.Status {
			return fs.Mknod(nil, &fuse.MknodIn{InHeader: user(sgid), Mode: unix.S_IFREG | 0o640}, "file", &e)
		}, 1234, 77, unix.S_IFREG | 0o640},
	} {
		if code := c.do(name); !code.Ok() {
			t.Errorf("%s: %v", name, code)
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Error(err)
		} else if st.Uid != c.uid || st.Gid != c.gid || st.Mode != c.mode {
			t.Errorf("%s belongs to %d:%d with mode %o; want %d:%d, %o", name, st.Uid, st.Gid, st.Mode, c.uid, c.gid, c.mode)
		}
	}
	none := fuse.InHeader{NodeId: root, Caller: fuse.Caller{Owner: fuse.Owner{Uid: 0xffffffff, Gid: 1}}}
	if code := fs.Mkdir(nil, &fuse.MkdirIn{InHeader: none, Mode: 0o755}, "nobody", &e); code.Ok() {
		t.Error("a user that is none made a directory, as root")
	}
}

func TestOnlyUserAttributesArePassedOn(t *testing.T) {
	fs, dir := share(t, hostdir.Options{}, func(dir string) { write(t, filepath.Join(dir, "f"), "x") })
	f := lookup(t, fs, root, "f").NodeId
	for _, name := range []string{"trusted.overlay.opaque", "security.capability", "system.posix_acl_access", "user", ""} {
		if code := fs.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: *at(f)}, name, []byte("x")); code.Ok() {
			t.Errorf("%q was set", name)
		}
	}
	code := fs.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: *at(f)}, "user.color", []byte("blue"))
	if code == fuse.Status(unix.EOPNOTSUPP) {
		t.Skip("the temporary file system has no user attributes")
	}
	if !code.Ok() {
		t.Fatal(code)
	}
	buf := make([]byte, 10)
	if n, code := unix.Getxattr(filepath.Join(dir, "f"), "user.color", buf); string(buf[:n]) != "blue" {
		t.Errorf("the host sees %q, %v", buf[:n], code)
	}
	if n, code := fs.ListXAttr(nil, at(f), buf[:1]); n != 11 || code != fuse.Status(unix.ERANGE) {
		t.Errorf("size of the list: %d, %v", n, code)
	}
}
