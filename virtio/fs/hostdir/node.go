package hostdir

import (
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fileKey tells apart what the client sees as different files. One file of the
// host can be reached through several mounts, and what may be done with it is the
// mount's to say: so it is another file where that is read-only. A directory is
// another one in each mount, for it has one place in the client's tree.
type fileKey struct {
	dev, ino uint64
	mount    uint64 // of a directory
	readOnly bool   // the mount is
}

func keyOf(st *unix.Stat_t, v view) fileKey {
	k := fileKey{dev: st.Dev, ino: st.Ino, readOnly: v.readOnly}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		k.mount = v.mount
	}
	return k
}

// node is a file that the client knows by its ID. IDs are never used twice.
type node struct {
	id   uint64
	fd   int // O_PATH, that of ways[0]; -1: the file was gone when it was to be opened again
	ways []way
	file fileKey
	view view
	dir  bool
	reg  bool

	lookups uint64 // how often the client was given it; it forgets that many
	busy    int    // calls that use fd right now
}

// path is a name by which the kernel finds the open file itself: a magic link,
// which leads to what was opened, whatever the names in the tree are by now.
func (n *node) path() string { return fdPath(n.fd) }

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// use finds a node and keeps its descriptor open until release.
func (fs *FS) use(id uint64) (*node, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.nodes[id]
	if n == nil || n.fd < 0 {
		return nil, unix.ESTALE
	}
	n.busy++
	return n, nil
}

// useDir is use for a directory in which name is to be found or made.
func (fs *FS) useDir(id uint64, name string) (*node, error) {
	if err := fs.checkName(id, name); err != nil {
		return nil, err
	}
	n, err := fs.use(id)
	if err != nil {
		return nil, err
	}
	switch {
	case !n.dir:
		err = unix.ENOTDIR
	case n.view.sealed:
		err = unix.ENOENT
	default:
		return n, nil
	}
	fs.release(n)
	return nil, err
}

// checkName refuses what is not the name of one entry, or not of one that is
// shown.
func (fs *FS) checkName(dir uint64, name string) error {
	if err := checkEntry(name); err != nil {
		return err
	}
	if fs.only != "" && (dir != rootID || name != fs.only) {
		return unix.ENOENT
	}
	return nil
}

func checkEntry(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return unix.EINVAL
	case len(name) > 255:
		return unix.ENAMETOOLONG
	}
	return nil
}

// release ends a use.
func (fs *FS) release(n *node) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n.busy--
	fs.reap(n)
}

// reap closes a node that nobody holds. Preconditions: mu is held.
func (fs *FS) reap(n *node) {
	if n.lookups > 0 || n.busy > 0 || n.id == rootID {
		return
	}
	fs.remove(n)
}

// remove closes a node. Preconditions: mu is held, no call uses it.
func (fs *FS) remove(n *node) {
	for _, w := range n.ways {
		unix.Close(w.fd)
		fs.held--
	}
	delete(fs.nodes, n.id)
	if fs.byFile[n.file] == n {
		delete(fs.byFile, n.file)
	}
}

// Forget takes lookups back.
func (fs *FS) Forget(id, lookups uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.nodes[id]
	if n == nil || id == rootID {
		return
	}
	n.lookups -= min(n.lookups, lookups)
	fs.reap(n)
}

// lookup opens name in dir and counts a lookup of it.
func (fs *FS) lookup(dir *node, name string, out *fuse.EntryOut) error {
	fd, err := unix.Openat(dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return fs.enter(fd, dir.ways[0].by, dir, out)
}

// enter gives the client the open file, found by an attached directory and in dir,
// which is nil for the attached directory itself. It owns fd.
func (fs *FS) enter(fd int, by *attached, dir *node, out *fuse.EntryOut) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	var parent view
	if dir != nil {
		parent = dir.view
	}
	v, err := parent.below(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	n, err := fs.intern(fd, by, &st, v)
	if err != nil {
		return err
	}
	out.NodeId = n.id
	out.SetEntryTimeout(fs.opt.Cache)
	out.SetAttrTimeout(fs.opt.Cache)
	fs.attr(&st, &out.Attr)
	return nil
}

// intern finds the node of an open file or makes one; it owns fd.
func (fs *FS) intern(fd int, by *attached, st *unix.Stat_t, v view) (*node, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	k := keyOf(st, v)
	if n := fs.byFile[k]; n != nil {
		n.lookups++
		fs.come(n, way{by, v.mount, fd})
		return n, nil
	}
	if fs.held >= fs.opt.MaxNodes {
		unix.Close(fd)
		return nil, unix.ENFILE
	}
	fs.nextID++
	kind := st.Mode & unix.S_IFMT
	n := &node{
		id: fs.nextID, fd: fd, ways: []way{{by, v.mount, fd}}, file: k, view: v, lookups: 1,
		dir: kind == unix.S_IFDIR, reg: kind == unix.S_IFREG && !v.sealed,
	}
	fs.nodes[n.id], fs.byFile[k] = n, n
	fs.held++
	return n, nil
}

// Lookup finds name in a directory.
func (fs *FS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if fs.attached != nil && h.NodeId == rootID {
		return status(fs.lookupAttached(name, out))
	}
	dir, err := fs.useDir(h.NodeId, name)
	if err != nil {
		return status(err)
	}
	defer fs.release(dir)
	return status(fs.lookup(dir, name, out))
}

// Readlink returns what a symbolic link says; following it is the client's.
func (fs *FS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n, err := fs.use(h.NodeId)
	if err != nil {
		return nil, status(err)
	}
	defer fs.release(n)
	buf := make([]byte, unix.PathMax)
	k, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return nil, status(err)
	}
	return buf[:k], fuse.OK
}

// StatFs reports on the host's file system.
func (fs *FS) StatFs(_ <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	n, err := fs.use(h.NodeId)
	if err != nil {
		return status(err)
	}
	defer fs.release(n)
	var st unix.Statfs_t
	if err := unix.Fstatfs(n.fd, &st); err != nil {
		return status(err)
	}
	out.Blocks, out.Bfree, out.Bavail, out.Files, out.Ffree = st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree
	out.Bsize, out.NameLen, out.Frsize = uint32(st.Bsize), uint32(st.Namelen), uint32(st.Frsize)
	return fuse.OK
}
