package container

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyUp copies the directory from, as it is, into the empty to. Both are
// descriptors; nothing is looked up through a link.
func copyUp(from, to int) error {
	fd, err := unix.Openat(from, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	src := os.NewFile(uintptr(fd), ".")
	defer src.Close()
	names, err := src.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyOne(fd, to, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func copyOne(from, to int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	mode := st.Mode & 0o7777
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(to, name, 0o700); err != nil {
			return os.NewSyscallError("mkdirat", err)
		}
		sub, err := openPair(from, to, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer sub.close()
		if err := copyUp(sub.from, sub.to); err != nil {
			return err
		}
	case unix.S_IFREG:
		sub, err := openPair(from, to, name, unix.O_RDONLY, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
		if err != nil {
			return err
		}
		defer sub.close()
		in, out := os.NewFile(uintptr(sub.from), name), os.NewFile(uintptr(sub.to), name)
		sub.from, sub.to = -1, -1
		defer in.Close()
		defer out.Close()
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	case unix.S_IFLNK:
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(from, name, b)
		if err != nil {
			return os.NewSyscallError("readlinkat", err)
		}
		if err := unix.Symlinkat(string(b[:n]), to, name); err != nil {
			return os.NewSyscallError("symlinkat", err)
		}
	default:
		return nil // sockets, pipes and devices do not belong into a copy
	}
	if err := unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fchownat", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	return os.NewSyscallError("fchmodat", unix.Fchmodat(to, name, mode, 0))
}

type pair struct{ from, to int }

func openPair(from, to int, name string, fromFlags, toFlags int) (p pair, err error) {
	p.to = -1
	if p.from, err = unix.Openat(from, name, fromFlags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
		return p, os.NewSyscallError("openat", err)
	}
	if p.to, err = unix.Openat(to, name, toFlags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600); err != nil {
		p.close()
		return p, os.NewSyscallError("openat", err)
	}
	return p, nil
}

func (p pair) close() {
	for _, fd := range [...]int{p.from, p.to} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
