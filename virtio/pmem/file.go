package pmem

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
)

var (
	// ErrFile is wrapped when a file cannot be given to a guest as memory.
	ErrFile = errors.New("pmem file refused")
	// ErrLocked is wrapped when another VM uses the file.
	ErrLocked = errors.New("pmem file is in use")
)

// open opens and locks the file, then judges it: nobody else changes it then.
func open(o Options) (f *os.File, size uint64, err error) {
	flags := os.O_RDWR
	if o.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err = os.OpenFile(o.Path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) // a FIFO must give an error, not a hang
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if err = lock(f, o); err == nil {
		size, err = sizeOf(f, o)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, nil
}

// lock takes the lock that a disk's image has, too; it goes with the last process
// that has the file open.
func lock(f *os.File, o Options) error {
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if o.ReadOnly {
		l.Type = unix.F_RDLCK
	}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %s is used by another VM; stop that one, or give it to both with ro=on", ErrLocked, o.Path)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", o.Path, os.NewSyscallError("fcntl", err))
	}
	return nil
}

func sizeOf(f *os.File, o Options) (uint64, error) {
	st, err := f.Stat()
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: %w", ErrFile, err)
	case !st.Mode().IsRegular():
		return 0, fmt.Errorf("%w: %s is no regular file", ErrFile, o.Path)
	case st.Size() == 0:
		return 0, fmt.Errorf("%w: %s is empty", ErrFile, o.Path)
	case !o.ReadOnly && st.Size()%memory.HugePageSize != 0:
		return 0, fmt.Errorf("%w: %s has %d bytes, and one that the guest writes to has to end at a multiple of 2 MiB; extend it with: truncate -s %%2M %s",
			ErrFile, o.Path, st.Size(), o.Path)
	}
	return uint64(st.Size()), nil
}
