package hostdir_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/virtio/fs/hostdir"
	"golang.org/x/sys/unix"
)

// stale is what a node of a directory that was detached answers.
const stale = fuse.Status(unix.ESTALE)

// attachable serves the directories dirs by their last names.
func attachable(t *testing.T, o hostdir.Options, dirs ...string) *hostdir.FS {
	t.Helper()
	fs, err := hostdir.NewAttachable(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	for _, dir := range dirs {
		if err := attach(fs, dir); err != nil {
			t.Fatal(err)
		}
	}
	return fs
}

func attach(fs *hostdir.FS, dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return fs.Attach(filepath.Base(dir), f)
}

func TestMadeUpRootShowsWhatIsAttached(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/f", "of a")
	write(t, dir+"/b/f", "of b")
	fs := attachable(t, hostdir.Options{}, dir+"/a", dir+"/b")
	for _, name := range []string{"a", "b"} {
		if got, code := read(fs, lookup(t, fs, lookup(t, fs, root, name).NodeId, "f").NodeId); got != "of "+name || !code.Ok() {
			t.Errorf("%s/f: %q, %v", name, got, code)
		}
	}
	var e fuse.EntryOut
	for _, name := range []string{"etc", "proc", "c", "..", ".", "", "a/f"} {
		if code := fs.Lookup(nil, at(root), name, &e); code.Ok() {
			t.Errorf("the made-up root has %q", name)
		}
	}
	for what, code := range map[string]fuse.Status{
		"mkdir":  fs.Mkdir(nil, &fuse.MkdirIn{InHeader: *at(root), Mode: 0o755}, "x", &e),
		"rmdir":  fs.Rmdir(nil, at(root), "a"),
		"create": fs.Create(nil, &fuse.CreateIn{InHeader: *at(root), Flags: unix.O_RDWR, Mode: 0o644}, "x", &fuse.CreateOut{}),
		"rename": fs.Rename(nil, &fuse.RenameIn{InHeader: *at(root), Newdir: root}, "a", "x"),
		"chmod":  fs.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: *at(root), Valid: fuse.FATTR_MODE}}, &fuse.AttrOut{}),
	} {
		if code.Ok() {
			t.Errorf("%s in the made-up root", what)
		}
	}
	if names := list(t, fs, true); len(names) != 0 {
		t.Errorf("listing: %v", names)
	}
}

func TestWhatCannotBeAttached(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/f", "x")
	fs := attachable(t, hostdir.Options{}, dir+"/a")
	if err := attach(fs, dir+"/a"); err == nil {
		t.Error("a name was taken twice")
	}
	if err := attach(fs, dir+"/a/f"); err == nil {
		t.Error("a file was attached")
	}
	if err := attach(fs, "/proc/self"); err == nil {
		t.Error("a directory of proc was attached")
	}
	fs.Detach("nosuch")
}

// What is attached came as a descriptor, and could not be found again.
func TestAttachedDirectoriesAreNotSaved(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/f", "x")
	write(t, dir+"/b/f", "x")
	fs := attachable(t, hostdir.Options{}, dir+"/b", dir+"/a")
	lookup(t, fs, lookup(t, fs, root, "a").NodeId, "f")
	for _, name := range []string{"a", "b"} {
		_, err := fs.Save()
		for how, err := range map[string]error{"CanSave": fs.CanSave(), "Save": err} {
			if !errors.Is(err, hostdir.ErrAttached) || !strings.Contains(err.Error(), strconv.Quote(name)) || !strings.Contains(err.Error(), "end the container") {
				t.Errorf("%s: %v", how, err)
			}
		}
		fs.Detach(name)
	}
	if table := save(t, fs); len(table.Nodes) != 0 || len(table.Handles) != 0 {
		t.Errorf("of what is detached %v is saved", table)
	}
}

// A client that goes on with what it has of a directory that was detached.
func TestDetachedNodesAreStale(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		write(t, dir+"/"+name+"/d/f", "of "+name)
	}
	fs := attachable(t, hostdir.Options{}, dir+"/a", dir+"/b")
	nodes := map[string]uint64{}
	for _, name := range []string{"a", "b"} {
		top := lookup(t, fs, root, name).NodeId
		d := lookup(t, fs, top, "d").NodeId
		nodes[name], nodes[name+"/d"], nodes[name+"/d/f"] = top, d, lookup(t, fs, d, "f").NodeId
	}
	var file, list fuse.OpenOut
	if code := fs.Open(nil, &fuse.OpenIn{InHeader: *at(nodes["a/d/f"]), Flags: unix.O_RDWR}, &file); !code.Ok() {
		t.Fatal(code)
	}
	if code := fs.OpenDir(nil, &fuse.OpenIn{InHeader: *at(nodes["a/d"])}, &list); !code.Ok() {
		t.Fatal(code)
	}
	fs.Detach("a")

	var e fuse.EntryOut
	if code := fs.Lookup(nil, at(root), "a", &e); code != fuse.ENOENT {
		t.Errorf("lookup of what is detached: %v", code)
	}
	for _, name := range []string{"a", "a/d", "a/d/f"} {
		n := nodes[name]
		for what, code := range map[string]fuse.Status{
			"getattr":  fs.GetAttr(nil, &fuse.GetAttrIn{InHeader: *at(n)}, &fuse.AttrOut{}),
			"lookup":   fs.Lookup(nil, at(n), "f", &e),
			"open":     fs.Open(nil, &fuse.OpenIn{InHeader: *at(n)}, &fuse.OpenOut{}),
			"opendir":  fs.OpenDir(nil, &fuse.OpenIn{InHeader: *at(n)}, &fuse.OpenOut{}),
			"mkdir":    fs.Mkdir(nil, &fuse.MkdirIn{InHeader: *at(n), Mode: 0o755}, "x", &e),
			"link":     fs.Link(nil, &fuse.LinkIn{InHeader: *at(nodes["b"]), Oldnodeid: n}, "x", &e),
			"move out": fs.Rename(nil, &fuse.RenameIn{InHeader: *at(n), Newdir: nodes["b"]}, "f", "x"),
			"move in":  fs.Rename(nil, &fuse.RenameIn{InHeader: *at(nodes["b"]), Newdir: n}, "d", "x"),
			"statfs":   fs.StatFs(nil, at(n), &fuse.StatfsOut{}),
		} {
			if code != stale {
				t.Errorf("%s of %s: %v", what, name, code)
			}
		}
		fs.Forget(n, 1) // late, and of no consequence
	}
	if _, code := fs.Read(nil, &fuse.ReadIn{Fh: file.Fh, Size: 10}, nil); code != fuse.EBADF {
		t.Errorf("read of a file that was open: %v", code)
	}
	if _, code := fs.Writev(nil, &fuse.WriteIn{Fh: file.Fh}, [][]byte{[]byte("x")}); code != fuse.EBADF {
		t.Errorf("write to a file that was open: %v", code)
	}
	if code := fs.ReadDir(nil, &fuse.ReadIn{Fh: list.Fh, Size: 100}, fuse.NewDirEntryList(make([]byte, 100), 0)); code != fuse.EBADF {
		t.Errorf("listing of a directory that was open: %v", code)
	}
	if got, code := read(fs, nodes["b/d/f"]); got != "of b" || !code.Ok() {
		t.Errorf("the other directory's file: %q, %v", got, code)
	}
	if n, h := fs.InUse(); n != 4 || h != 0 { // the root, b, b/d, b/d/f
		t.Errorf("%d nodes and %d handles are held", n, h)
	}
	write(t, dir+"/a/d/f", "anew")
	if err := attach(fs, dir+"/a"); err != nil {
		t.Fatal(err)
	}
	if n := lookup(t, fs, root, "a").NodeId; n == nodes["a"] {
		t.Error("the node of a detached directory is used again")
	}
}

// A volume that two containers have mounted is one for the client: a file in it is
// one node, which lives as long as one of them does.
func TestFileOfASharedVolumeOutlivesOneOfItsDirectories(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	write(t, dir+"/volume/f", "f")
	for _, c := range []string{"a", "b"} {
		v := filepath.Join(dir, c, "v")
		if err := os.MkdirAll(v, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(dir+"/volume", v, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(v, unix.MNT_DETACH) })
	}
	fs := attachable(t, hostdir.Options{}, dir+"/a", dir+"/b")
	var file [2]uint64
	for i, c := range []string{"a", "b"} {
		volume := lookup(t, fs, lookup(t, fs, root, c).NodeId, "v").NodeId
		file[i] = lookup(t, fs, volume, "f").NodeId
		if code := fs.Link(nil, &fuse.LinkIn{InHeader: *at(volume), Oldnodeid: file[i]}, "of-"+c, new(fuse.EntryOut)); !code.Ok() {
			t.Errorf("a second name for the file, in %s's volume: %v", c, code)
		}
	}
	if file[0] != file[1] {
		t.Error("one file is two nodes")
	}
	fs.Detach("a")
	if err := unix.Unmount(dir+"/a/v", 0); err != nil {
		t.Errorf("the mount of the detached directory is held: %v", err)
	}
	if got, code := read(fs, file[1]); got != "f" || !code.Ok() {
		t.Errorf("by the other directory: %q, %v", got, code)
	}
	fs.Detach("b")
	if code := fs.GetAttr(nil, &fuse.GetAttrIn{InHeader: *at(file[1])}, &fuse.AttrOut{}); code != stale {
		t.Errorf("when both are gone: %v", code)
	}
	if err := unix.Unmount(dir+"/b/v", 0); err != nil {
		t.Errorf("a mount is held: %v", err)
	}
}

// What a client holds of shared files counts once for each directory.
func TestWaysToANodeAreBounded(t *testing.T) {
	dir := t.TempDir()
	var dirs []string
	write(t, dir+"/0/f", "x")
	for i := range 8 {
		at := fmt.Sprintf("%s/%d", dir, i)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			if err := os.Link(dir+"/0/f", at+"/f"); err != nil {
				t.Fatal(err)
			}
		}
		dirs = append(dirs, at)
	}
	before := descriptors(t)
	fs := attachable(t, hostdir.Options{MaxNodes: 12}, dirs...)
	var tops []uint64
	for i := range dirs {
		tops = append(tops, lookup(t, fs, root, fmt.Sprint(i)).NodeId)
	}
	var last uint64
	for _, top := range tops {
		last = lookup(t, fs, top, "f").NodeId
	}
	if n := descriptors(t) - before; n > len(dirs)+12 {
		t.Errorf("%d descriptors for %d directories and at most 12 nodes", n, len(dirs))
	}
	if got, code := read(fs, last); got != "x" || !code.Ok() {
		t.Errorf("%q, %v", got, code)
	}
	for i := range dirs {
		fs.Detach(fmt.Sprint(i))
	}
	if n, _ := fs.InUse(); n != 1 {
		t.Errorf("%d nodes are held when all is detached", n)
	}
	fs.Close()
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}
