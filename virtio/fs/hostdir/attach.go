package hostdir

import (
	"fmt"
	"os"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// attached is a directory that lies under a name in a made-up root.
type attached struct {
	name string
	fd   int // O_PATH
}

// maxAttached bounds the directories in a made-up root.
const maxAttached = 1024

// NewAttachable makes a file system whose root directory is made up: it is empty,
// and below it are the directories that Attach puts there. What they lie in is no
// concern of the client's, and their mounts say what is read-only.
func NewAttachable(o Options) (*FS, error) {
	o.Path = "/"
	fs, err := New(o)
	if err != nil {
		return nil, err
	}
	fs.nodes[rootID].view.sealed = true
	fs.attached = map[string]*attached{}
	return fs, nil
}

// Attach puts a directory under a name of the made-up root. It does not keep dir.
// Preconditions: fs is of NewAttachable, no other call is running.
func (fs *FS) Attach(name string, dir *os.File) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	switch {
	case checkEntry(name) != nil:
		return fmt.Errorf("attach %q: no name for a directory", name)
	case fs.attached[name] != nil:
		return fmt.Errorf("attach %q: the name is taken", name)
	case len(fs.attached) >= maxAttached:
		return fmt.Errorf("attach %q: %d directories are attached, and there may be no more", name, maxAttached)
	}
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("attach %q: %w", name, err)
	}
	v, err := viewOf(fd)
	if err == nil && v.sealed {
		err = errSealed
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("attach %q: %w", name, err)
	}
	fs.attached[name] = &attached{name, fd}
	return nil
}

// Detach takes a directory away, with all that the client holds of it: what it
// had open is closed, its nodes are stale (ESTALE) for good. A file that the
// client has found through another directory, too, stays with that one.
// Preconditions: no other call is running.
func (fs *FS) Detach(name string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	a := fs.attached[name]
	if a == nil {
		return
	}
	delete(fs.attached, name)
	unix.Close(a.fd)
	stale := map[uint64]bool{}
	for _, n := range fs.nodes {
		if fs.leave(n, a) {
			stale[n.id] = true
			fs.remove(n)
		}
	}
	for id, h := range fs.handles {
		if stale[h.node] {
			delete(fs.handles, id)
			h.close()
		}
	}
}

// way is one by which the client has found a node: the attached directory, if there
// are some, the mount, and the file opened through them.
type way struct {
	by    *attached
	mount uint64
	fd    int // O_PATH
}

// come notes one more way to n, if the client may hold one more descriptor; it
// owns w.fd. Preconditions: mu is held.
func (fs *FS) come(n *node, w way) {
	known := slices.ContainsFunc(n.ways, func(k way) bool { return k.by == w.by && k.mount == w.mount })
	if known || fs.held >= fs.opt.MaxNodes {
		unix.Close(w.fd)
		return
	}
	n.ways = append(n.ways, w)
	fs.held++
}

// in is a name of n's file as the mount has it, or the first way's where the client
// has not found it in that mount: the kernel makes links within one mount alone.
func (fs *FS) in(n *node, mount uint64) string {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, w := range n.ways {
		if w.mount == mount {
			return fdPath(w.fd)
		}
	}
	return n.path()
}

// leave forgets the ways by a, and reports whether n was found by no other; then
// they are left. Preconditions: mu is held, no call uses n.
func (fs *FS) leave(n *node, a *attached) bool {
	through := func(w way) bool { return w.by == a }
	if !slices.ContainsFunc(n.ways, through) {
		return false
	}
	if !slices.ContainsFunc(n.ways, func(w way) bool { return w.by != a }) {
		return true
	}
	for _, w := range n.ways {
		if w.by == a {
			unix.Close(w.fd)
			fs.held--
		}
	}
	n.ways = slices.DeleteFunc(n.ways, through)
	n.fd = n.ways[0].fd
	return false
}

// lookupAttached finds a directory of the made-up root.
func (fs *FS) lookupAttached(name string, out *fuse.EntryOut) error {
	if err := checkEntry(name); err != nil {
		return err
	}
	fs.mu.Lock()
	a := fs.attached[name]
	fs.mu.Unlock()
	if a == nil {
		return unix.ENOENT
	}
	fd, err := unix.FcntlInt(uintptr(a.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return fs.enter(fd, a, nil, out)
}
