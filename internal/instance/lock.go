package instance

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// whole is a write lock on all of a file.
func whole() *unix.Flock_t {
	return &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
}

// lockWait blocks until f, opened for writing, is locked.
func lockWait(f *os.File) error {
	for {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, whole())
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fcntl(F_OFD_SETLKW)", err)
		}
	}
}

// tryLock locks f or fails with ErrLocked.
func tryLock(f *os.File) error {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, whole())
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrLocked
	}
	return os.NewSyscallError("fcntl(F_OFD_SETLK)", err)
}

// lockedByOther tells whether another open file description holds the lock.
func lockedByOther(f *os.File) (bool, error) {
	l := whole()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, l); err != nil {
		return false, os.NewSyscallError("fcntl(F_OFD_GETLK)", err)
	}
	return l.Type != unix.F_UNLCK, nil
}
