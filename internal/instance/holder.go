package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrNotOwner means that a process does not hold the instance's lock.
var ErrNotOwner = errors.New("is not the instance's owner")

// KillOwner ends the process pid (SIGKILL) if it has the instance's lock file open:
// owners write their own records, so the number alone proves nothing. A process that
// is gone is no error; one that does not hold the lock is left alone, and the error
// wraps ErrNotOwner.
func (i *Instance) KillOwner(pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, os.NewSyscallError("pidfd_open", err))
	}
	defer unix.Close(pidfd)
	holds, err := holdsOpen(pid, filepath.Join(i.dir, lockFile))
	if err != nil {
		return err
	}
	if !holds {
		if held, err := i.held(); err != nil || !held {
			return err // the owner ended meanwhile
		}
		return fmt.Errorf("process %d %w: it does not hold %s, so it is left alone; look who does (fuser) and end that",
			pid, ErrNotOwner, filepath.Join(i.dir, lockFile))
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: %w", pid, os.NewSyscallError("pidfd_send_signal", err))
	}
	return nil
}

// holdsOpen tells whether a process has the file of that name open. A link in its
// place, which could lead to a file of others, is not it.
func holdsOpen(pid int, name string) (bool, error) {
	want, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !want.Mode().IsRegular() {
		return false, nil
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, fd := range fds {
		if have, err := os.Stat(filepath.Join(dir, fd.Name())); err == nil && os.SameFile(have, want) {
			return true, nil
		}
	}
	return false, nil
}
