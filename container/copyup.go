package container

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copier copies directories into a container's memory. The pages are charged to the
// runtime, for it is who writes; so the container's limit is kept here.
type copier struct {
	limit int64 // bytes; 0: none
	used  int64
}

// entryCost is what a file costs beside its content, about.
const entryCost = 1 << 10

// take accounts for n bytes more.
func (c *copier) take(n int64) error {
	if c.used += n; c.limit > 0 && c.used > c.limit {
		return fmt.Errorf("the image has more there than linux.resources.memory.limit (%d bytes) lets the container hold", c.limit)
	}
	return nil
}

// directory copies the directory from, as it is, into the empty to. Both are
// descriptors; nothing is looked up through a link.
func (c *copier) directory(from, to int) error {
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
		if err := c.entry(fd, to, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (c *copier) entry(from, to int, name string) error {
	if err := c.take(entryCost); err != nil {
		return err
	}
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
		if err := c.directory(sub.from, sub.to); err != nil {
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
		if err := c.data(out, in, st.Size); err != nil {
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

// data copies a file's content, without its holes.
func (c *copier) data(out, in *os.File, size int64) error {
	for at := int64(0); at < size; {
		start, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // the rest is a hole
		}
		end := size
		if err != nil {
			start = at // a file system that knows of no holes
		} else if end, err = in.Seek(start, unix.SEEK_HOLE); err != nil {
			return err
		}
		n := min(end, size) - start
		if err := c.take(n); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, start), io.NewSectionReader(in, start, n)); err != nil {
			return err
		}
		at = end
	}
	return out.Truncate(size)
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
