package inroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// resolveTries bounds how often a lookup that raced with a rename is tried
// again; the kernel asks for it with EAGAIN.
const resolveTries = 128

// maxDepth bounds the components of a name.
const maxDepth = 512

// Root is an open directory that names are resolved in.
type Root int

// Open opens name, which may be absolute and may have symbolic links: all of
// it stays below r. flags are open(2)'s; O_CLOEXEC is added. Errors are
// *fs.PathError.
func (r Root) Open(name string, flags int) (int, error) {
	return openat2(int(r), name, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// OpenReal is Open for a name none of whose components may be a symbolic link.
func (r Root) OpenReal(name string, flags int) (int, error) {
	return openat2(int(r), name, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_NO_SYMLINKS)
}

func openat2(dir int, name string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: resolve}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, name, &how)
		switch {
		case err == nil:
			return fd, nil
		case err == unix.EINTR, err == unix.EAGAIN && try < resolveTries:
		default:
			return -1, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// Parent opens the directory that name's last component is in, made if
// missing, and returns that component.
func (r Root) Parent(name string) (dir int, base string, err error) {
	name = path.Clean("/" + name)
	if name == "/" {
		return -1, "", &fs.PathError{Op: "open", Path: name, Err: errors.New("the root itself has no parent here")}
	}
	dir, err = r.MkdirAll(path.Dir(name), 0o755)
	return dir, path.Base(name), err
}

// MkdirAll opens the directory name as O_PATH, made with its parents if
// missing. A symbolic link in the part that exists is followed inside r; what
// has to be made is made one component at a time and never through a link.
func (r Root) MkdirAll(name string, mode uint32) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY
	name = path.Clean("/" + name)
	fd, err := r.Open(name, flags)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	todo := strings.Split(name[1:], "/")
	if len(todo) > maxDepth {
		return -1, &fs.PathError{Op: "mkdir", Path: name, Err: unix.ENAMETOOLONG}
	}
	// The longest part that exists.
	cur, have := -1, 0
	for have = len(todo) - 1; have >= 0; have-- {
		if cur, err = r.Open("/"+strings.Join(todo[:have], "/"), flags); err == nil {
			break
		}
		if !errors.Is(err, unix.ENOENT) {
			return -1, err
		}
	}
	if cur < 0 {
		return -1, err
	}
	for _, c := range todo[have:] {
		if err := unix.Mkdirat(cur, c, mode); err != nil && err != unix.EEXIST {
			unix.Close(cur)
			return -1, &fs.PathError{Op: "mkdir", Path: name, Err: err}
		}
		next, err := openat2(cur, c, flags|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
		unix.Close(cur)
		if err != nil {
			return -1, &fs.PathError{Op: "mkdir", Path: name, Err: errors.Unwrap(err)}
		}
		cur = next
	}
	return cur, nil
}

// Touch opens the file name as O_PATH, made empty if missing, with the
// directories above it. A last component that is a symbolic link is followed
// inside r when it leads somewhere.
func (r Root) Touch(name string) (int, error) {
	fd, err := r.Open(name, unix.O_PATH)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	dir, base, err := r.Parent(name)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	fd, err = unix.Openat(dir, base, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY, 0o644)
	if err != nil && err != unix.EEXIST {
		return -1, &fs.PathError{Op: "create", Path: name, Err: err}
	}
	if err == nil {
		unix.Close(fd)
	}
	// Without O_NOFOLLOW, which would give the link itself.
	fd, err = openat2(dir, base, unix.O_PATH, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return -1, &fs.PathError{Op: "create", Path: name, Err: errors.Unwrap(err)}
	}
	return fd, nil
}

// IsDir says whether fd is a directory.
func IsDir(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// CheckDevice fails unless fd is the character device major:minor.
func CheckDevice(fd int, major, minor uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.Major(st.Rdev) != major || unix.Minor(st.Rdev) != minor {
		return fmt.Errorf("not the character device %d:%d", major, minor)
	}
	return nil
}
