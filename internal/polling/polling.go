// Package polling keeps descriptors out of Go's network poller. The poller watches
// every non-blocking file that package os is given, for as long as it is open: each
// time it becomes ready a thread of this process wakes, whether or not a goroutine
// waits for it. For what the kernel serves by itself (the queues of vhost) that is
// all that a wake-up does.
//
// The open file behind a descriptor keeps its non-blocking mode, and nobody else with
// a descriptor of it notices.
package polling

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Off returns f's open file under a new descriptor that the poller does not
// watch; it has no deadlines (os.ErrNoDeadline), and reads and writes do not wait. f
// stays as it is, and watched, until the caller closes it; nobody may read or write
// f meanwhile.
func Off(f *os.File) (*os.File, error) {
	fd, err := duplicate(f)
	if err != nil {
		return nil, err
	}
	// Package os gives to the poller what it finds non-blocking.
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	q := os.NewFile(uintptr(fd), f.Name())
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), q.Close())
	}
	return q, nil
}

// On returns f's open file under a new descriptor that the poller watches. f
// stays open, and as it is.
func On(f *os.File) (*os.File, error) {
	fd, err := duplicate(f)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func duplicate(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	cerr := raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3) })
	if cerr != nil {
		return -1, cerr
	}
	return fd, os.NewSyscallError("fcntl", err)
}
