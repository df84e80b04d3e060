package etcfiles

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Tree is a file tree that an image filled. Paths in it are resolved as the
// workload would resolve them: a symbolic link, absolute or with any number of
// "..", never leads out of it.
type Tree struct{ dir *os.File }

// OpenTree opens the tree below the directory dir.
func OpenTree(dir string) (*Tree, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &Tree{os.NewFile(uintptr(fd), dir)}, nil
}

// Open opens name with the flags of open(2); mode goes with O_CREAT.
func (t *Tree) Open(name string, flags int, mode uint32) (*os.File, error) {
	rel := strings.TrimLeft(path.Clean("/"+name), "/")
	if rel == "" {
		rel = "."
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(mode)
	}
	for {
		fd, err := unix.Openat2(int(t.dir.Fd()), rel, &how)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN: // EAGAIN: a rename raced
			continue
		case err != nil:
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// MkdirAll returns the directory called name, made with its parents if need be.
func (t *Tree) MkdirAll(name string, mode uint32) (*os.File, error) {
	f, err := t.Open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return f, err
	}
	dir, base := path.Split(path.Clean("/" + name))
	if base == "" {
		return nil, err
	}
	parent, err := t.MkdirAll(dir, mode)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := unix.Mkdirat(int(parent.Fd()), base, mode); err != nil && err != unix.EEXIST {
		return nil, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return t.Open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// Touch returns the file called name, made empty with its parents if need be.
func (t *Tree) Touch(name string) (*os.File, error) {
	f, err := t.Open(name, unix.O_PATH, 0)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return f, err
	}
	parent, err := t.MkdirAll(path.Dir(path.Clean("/"+name)), 0o755)
	if err != nil {
		return nil, err
	}
	parent.Close()
	return t.Open(name, unix.O_CREAT|unix.O_RDONLY, 0o644)
}

// RealDir checks that name is a directory of the root itself, made if missing.
// File systems such as proc are not mounted through a link.
func (t *Tree) RealDir(name string) error {
	if err := unix.Mkdirat(int(t.dir.Fd()), name, 0o755); err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "mkdir", Path: "/" + name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(t.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: "/" + name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("/%s of the image is not a directory", name)
	}
	return nil
}

// ReplaceEtc writes /etc/name anew. A link there, as images of desktop
// distributions have for resolv.conf, is replaced and not followed.
func (t *Tree) ReplaceEtc(name, content string) error {
	etc, err := t.MkdirAll("etc", 0o755)
	if err != nil {
		return err
	}
	defer etc.Close()
	if err := unix.Unlinkat(int(etc.Fd()), name, 0); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "unlink", Path: "/etc/" + name, Err: err}
	}
	fd, err := unix.Openat(int(etc.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "create", Path: "/etc/" + name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

// ReadFile returns the content of a regular file of at most limit bytes; a
// missing file is empty.
func (t *Tree) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := t.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s of the image is not a regular file", name)
	}
	if fi.Size() > limit {
		return nil, fmt.Errorf("%s of the image has %d bytes, at most %d are read", name, fi.Size(), limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// Close lets go of the tree.
func (t *Tree) Close() { _ = t.dir.Close() } // nothing was written through it
