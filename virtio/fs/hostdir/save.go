package hostdir

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUnlinked is wrapped when the client has a file open that has no name in the
// directory any more: nobody could open it again.
var ErrUnlinked = errors.New("an open file of it has been removed, or moved out of it: it could not be opened again; have it closed first")

// ErrAttached is wrapped when directories are attached to a made-up root: they came
// as descriptors, and there is no name by which they could be found again.
var ErrAttached = errors.New("is attached, which could not be found again: end the container that it belongs to first")

// ErrTooMany is wrapped when the client remembers more files than are saved.
var ErrTooMany = errors.New("the guest remembers too many of its files; `echo 2 >/proc/sys/vm/drop_caches` in the guest makes them fewer")

// maxTable bounds a Table by what its names take, in bytes.
const maxTable = 6 << 20

// Table is what a client holds of a directory: names below it, so that the same
// files can be opened again, here or in a directory with the same files elsewhere.
type Table struct {
	Root    Root
	NextID  uint64
	NextFH  uint64
	Nodes   []SavedNode
	Handles []SavedHandle
}

// Root tells the directory itself from others.
type Root struct {
	FS [2]int32 // statfs(2), f_fsid
	Identity
}

// Identity tells a file from others of its file system, also from a later one in
// its place.
type Identity struct {
	Ino  uint64
	Born int64 // nanoseconds since 1970, or 0 where the file system does not say
}

// SavedNode is a file that the client knows by ID.
type SavedNode struct {
	ID      uint64
	Lookups uint64
	Path    []byte // below the root; empty: the file has no name there any more
	Kind    uint32 // S_IFMT bits
	File    Identity
}

// SavedHandle is an open file or directory. Reads and writes say where, so it has
// no position.
type SavedHandle struct {
	ID    uint64
	Path  []byte // empty: a directory that is shown empty, or a file that was gone before
	Dir   bool
	Flags int // of open(2), those of openFlags but O_TRUNC
	File  Identity
}

// CanSave returns why Save would fail now, as far as that is quickly known. It may
// be called while requests are served.
func (fs *FS) CanSave() error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err := fs.bare(); err != nil {
		return err
	}
	for _, h := range fs.handles {
		if h.fd < 0 {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(h.fd, &st); err == nil && st.Nlink == 0 {
			return fs.unlinked(h.fd)
		}
	}
	return nil
}

// bare refuses when directories are attached, by the name of the first. mu is held.
func (fs *FS) bare() error {
	if len(fs.attached) == 0 {
		return nil
	}
	return fmt.Errorf("shared directory %q (of %d): it %w", slices.Min(slices.Collect(maps.Keys(fs.attached))), len(fs.attached), ErrAttached)
}

func (fs *FS) unlinked(fd int) error {
	name, _ := os.Readlink(fdPath(fd))
	return fmt.Errorf("shared directory %s: %w: %q", fs.opt.Path, ErrUnlinked, name)
}

// Save returns what the client holds. Preconditions: no request is being served.
func (fs *FS) Save() (Table, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	root := fs.nodes[rootID]
	t := Table{NextID: fs.nextID, NextFH: fs.nextFH}
	err := fs.bare()
	if err != nil {
		return t, err
	}
	if t.Root, err = identityOfRoot(root.fd); err != nil {
		return t, fmt.Errorf("shared directory %s: %w", fs.opt.Path, err)
	}
	size := 0
	for id, n := range fs.nodes {
		if id == rootID {
			continue
		}
		s := SavedNode{ID: id, Lookups: n.lookups}
		if n.fd >= 0 {
			if s.Path, s.Kind, s.File, err = fs.nameOf(n.fd); err != nil {
				return t, err
			}
		}
		if size += 16 + len(s.Path); size > maxTable {
			return t, fmt.Errorf("shared directory %s: %w (%d)", fs.opt.Path, ErrTooMany, len(fs.nodes))
		}
		t.Nodes = append(t.Nodes, s)
	}
	for id, h := range fs.handles {
		s := SavedHandle{ID: id, Dir: h.dirs != nil && !h.stale}
		if h.fd >= 0 {
			if s.Path, _, s.File, err = fs.nameOf(h.fd); err != nil {
				return t, err
			}
			if len(s.Path) == 0 {
				return t, fs.unlinked(h.fd)
			}
			flags, err := unix.FcntlInt(uintptr(h.fd), unix.F_GETFL, 0)
			if err != nil {
				return t, os.NewSyscallError("fcntl", err)
			}
			s.Flags = flags & savedFlags
		}
		if size += 32 + len(s.Path); size > maxTable {
			return t, fmt.Errorf("shared directory %s: %w (%d)", fs.opt.Path, ErrTooMany, len(fs.nodes))
		}
		t.Handles = append(t.Handles, s)
	}
	slices.SortFunc(t.Nodes, func(a, b SavedNode) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(t.Handles, func(a, b SavedHandle) int { return cmp.Compare(a.ID, b.ID) })
	return t, nil
}

// savedFlags are those that an open file is opened with again.
const savedFlags = openFlags &^ unix.O_TRUNC

// here is the path of the root itself, as a Table has it.
var here = []byte(".")

// nameOf finds the name below the root of an open file, and what else is saved of
// it. The name is empty when it has none there. mu is held.
func (fs *FS) nameOf(fd int) (path []byte, kind uint32, id Identity, err error) {
	root := fs.nodes[rootID]
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, 0, id, os.NewSyscallError("fstat", err)
	}
	kind = st.Mode & unix.S_IFMT
	if id, err = identity(fd); err != nil {
		return nil, 0, id, err
	}
	top, err := os.Readlink(fdPath(root.fd))
	if err != nil {
		return nil, 0, id, err
	}
	name, err := os.Readlink(fdPath(fd))
	if err != nil {
		return nil, 0, id, err
	}
	below, ok := strings.CutPrefix(name, strings.TrimSuffix(top, "/")+"/")
	switch {
	case name == top:
		below = string(here)
	case !ok:
		return nil, kind, id, nil
	}
	// What the kernel calls it may be another file's name by now.
	again, _, err := fs.walk(below)
	if isGone(err) {
		return nil, kind, id, nil
	}
	if err != nil {
		return nil, 0, id, fmt.Errorf("%s: %w", name, err)
	}
	defer unix.Close(again)
	var now unix.Stat_t
	if err := unix.Fstat(again, &now); err != nil {
		return nil, 0, id, os.NewSyscallError("fstat", err)
	}
	if now.Dev != st.Dev || now.Ino != st.Ino {
		return nil, kind, id, nil
	}
	return []byte(below), kind, id, nil
}

// identity of an open file.
func identity(fd int) (Identity, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return Identity{}, os.NewSyscallError("statx", err)
	}
	id := Identity{Ino: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.Born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return id, nil
}

func identityOfRoot(fd int) (r Root, err error) {
	if r.Identity, err = identity(fd); err != nil {
		return r, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return r, os.NewSyscallError("fstatfs", err)
	}
	r.FS = st.Fsid.Val
	return r, nil
}
