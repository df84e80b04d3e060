package hostdir

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrTable is wrapped when a Table contradicts itself or the directory.
var ErrTable = errors.New("not what a client can hold of a shared directory")

// Load makes an FS that no client has used hold what t says, which comes from
// somebody hostile. Names are resolved like a client's, one component at a time. In
// the directory that was saved, a file that is gone, or has made way for another
// one, is stale: it answers ESTALE. In another directory what has the name, and is
// of the kind, is the file. Errors wrap ErrTable, or are the host's; then fs is as
// it was.
func (fs *FS) Load(t Table) (err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	defer func() {
		if err != nil {
			fs.drop()
			err = fmt.Errorf("shared directory %s: %w", fs.opt.Path, err)
		}
	}()
	if len(fs.nodes) > 1 || len(fs.handles) > 0 {
		return errors.New("it is in use")
	}
	if len(t.Nodes) >= fs.opt.MaxNodes || len(t.Handles) > maxHandles || t.NextID < rootID || t.NextID >= 1<<63 || t.NextFH >= 1<<63 {
		return fmt.Errorf("%w: %d files, %d of them open", ErrTable, len(t.Nodes), len(t.Handles))
	}
	root, err := identityOfRoot(fs.nodes[rootID].fd)
	if err != nil {
		return err
	}
	same := root == t.Root
	for _, s := range t.Nodes {
		if err := fs.loadNode(t, s, same); err != nil {
			return err
		}
	}
	for _, s := range t.Handles {
		if err := fs.loadHandle(t, s, same); err != nil {
			return err
		}
	}
	fs.nextID, fs.nextFH = t.NextID, t.NextFH
	return nil
}

func (fs *FS) loadNode(t Table, s SavedNode, same bool) error {
	if s.ID <= rootID || s.ID > t.NextID || s.Lookups == 0 || fs.nodes[s.ID] != nil {
		return fmt.Errorf("%w: file %d, known %d times", ErrTable, s.ID, s.Lookups)
	}
	n := &node{id: s.ID, fd: -1, lookups: s.Lookups}
	fd, v, err := fs.find(s.Path, s.Kind, s.File, same)
	if err != nil {
		return err
	}
	if fd < 0 {
		if err := fs.complete(s.Path); err != nil {
			return err
		}
	} else {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			unix.Close(fd)
			return err
		}
		n.fd, n.ways, n.file, n.view = fd, []way{{nil, v.mount, fd}}, keyOf(&st, v), v
		fs.held++
		n.dir, n.reg = s.Kind == unix.S_IFDIR, s.Kind == unix.S_IFREG && !v.sealed
		if fs.byFile[n.file] == nil {
			fs.byFile[n.file] = n
		}
	}
	fs.nodes[n.id] = n
	return nil
}

func (fs *FS) loadHandle(t Table, s SavedHandle, same bool) error {
	if s.ID == 0 || s.ID > t.NextFH || fs.handles[s.ID] != nil || s.Flags&^savedFlags != 0 {
		return fmt.Errorf("%w: open file %d, flags %#x", ErrTable, s.ID, s.Flags)
	}
	h := &handle{fd: -1}
	kind := uint32(unix.S_IFREG)
	if s.Dir {
		h.dirs, kind = &dirReader{}, unix.S_IFDIR
	}
	if s.Flags&unix.O_ACCMODE != unix.O_RDONLY && (s.Dir || fs.opt.ReadOnly) {
		return fmt.Errorf("%w: %q is open for writing", ErrTable, s.Path)
	}
	if len(s.Path) == 0 && s.Dir { // one that is shown empty
		fs.handles[s.ID] = h
		return nil
	}
	at, v, err := fs.find(s.Path, kind, s.File, same)
	if err != nil {
		return err
	}
	if at < 0 {
		if err := fs.complete(s.Path); err != nil {
			return err
		}
		h.stale = true
		fs.handles[s.ID] = h
		return nil
	}
	defer unix.Close(at)
	switch {
	case v.sealed:
	case s.Dir:
		h.fd, err = unix.Openat(at, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	default:
		h.fd, err = unix.Open(fdPath(at), s.Flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return fmt.Errorf("open %q again: %w", s.Path, err)
	}
	fs.handles[s.ID] = h
	return nil
}

// find opens what is saved, or returns -1 when that is gone.
func (fs *FS) find(path []byte, kind uint32, file Identity, same bool) (fd int, v view, err error) {
	if len(path) == 0 {
		return -1, v, nil
	}
	fd, v, err = fs.walk(string(path))
	if isGone(err) {
		return -1, v, nil
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENAMETOOLONG) {
		return -1, v, fmt.Errorf("%w: the name %q", ErrTable, path)
	}
	if err != nil {
		return -1, v, fmt.Errorf("%q: %w", path, err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	id := file
	if err == nil && same {
		id, err = identity(fd)
	}
	if err != nil || st.Mode&unix.S_IFMT != kind || id != file {
		unix.Close(fd)
		return -1, v, err
	}
	return fd, v, nil
}

// walk opens (O_PATH) a path below the root, component by component: no symbolic
// link is followed, and nothing is looked for in what is shown empty.
func (fs *FS) walk(path string) (fd int, v view, err error) {
	root := fs.nodes[rootID]
	v = root.view
	if fd, err = unix.FcntlInt(uintptr(root.fd), unix.F_DUPFD_CLOEXEC, 3); err != nil {
		return -1, v, err
	}
	if path == string(here) {
		return fd, v, nil
	}
	dir := uint64(rootID)
	for name := range strings.SplitSeq(path, "/") {
		if err = fs.checkName(dir, name); err == nil && v.sealed {
			err = unix.ENOENT
		}
		next := -1
		if err == nil {
			next, err = unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
		unix.Close(fd)
		if err != nil {
			return -1, v, err
		}
		fd, dir = next, 0
		if v, err = v.below(fd); err != nil {
			unix.Close(fd)
			return -1, v, err
		}
	}
	return fd, v, nil
}

// isGone tells whether a name leads nowhere.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ESTALE)
}
