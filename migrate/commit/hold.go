package commit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// SentFile is the source's record (File) in an instance's directory.
const SentFile = "migration.json"

// holdFile is what a Hold locks there.
const holdFile = "moving"

// ErrHeld is wrapped when an instance may not run on here now.
var ErrHeld = errors.New("it is being moved")

// Hold keeps an instance that stands still from running on, while a process that is not its
// owner moves it. It ends with that process. What is decided by then is on record.
type Hold struct{ f *os.File }

// TakeHold takes the hold on the instance whose directory is dir. An error wraps ErrHeld
// when another process has it.
func TakeHold(dir string) (*Hold, error) {
	h, err := hold(dir)
	if err != nil {
		return nil, err
	}
	// It says who holds (Holder); what keeps others out is hold's.
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(h.f.Fd(), unix.F_SETLK, &l); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), h.f.Close())
	}
	return h, nil
}

func hold(dir string) (*Hold, error) {
	f, err := os.OpenFile(filepath.Join(dir, holdFile), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(giveAsFolder(f), flock(f)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Hold{f}, nil
}

// giveAsFolder gives a file that root has made to the user whose folder it lies in: the
// owner of a VM has a user of its own and reads what a command has left there.
func giveAsFolder(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	var folder unix.Stat_t
	if err := unix.Stat(filepath.Dir(f.Name()), &folder); err != nil || folder.Uid == 0 {
		return err
	}
	return f.Chown(int(folder.Uid), int(folder.Gid))
}

// Holder opens the process that has the hold on the instance whose directory is dir, and
// returns its pidfd, which is the caller's; -1: nobody has. The caller must not have the hold itself.
func Holder(dir string) (pidfd int, err error) {
	f, err := os.OpenFile(filepath.Join(dir, holdFile), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	defer f.Close()
	for {
		pid, err := lockedBy(f)
		if pid == 0 || err != nil {
			return -1, err
		}
		if pidfd, err = unix.PidfdOpen(pid, 0); errors.Is(err, unix.ESRCH) {
			continue // it has ended, and its lock with it
		}
		if err != nil {
			return -1, os.NewSyscallError("pidfd_open", err)
		}
		again, err := lockedBy(f) // else the number may be another process's by now
		if err == nil && again == pid {
			return pidfd, nil
		}
		unix.Close(pidfd)
		if err != nil {
			return -1, err
		}
	}
}

// lockedBy is the process that has f locked; 0: none has.
func lockedBy(f *os.File) (int, error) {
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l); err != nil {
		return 0, os.NewSyscallError("fcntl", err)
	}
	switch {
	case l.Type == unix.F_UNLCK:
		return 0, nil
	case l.Pid <= 0:
		return 0, fmt.Errorf("%w, by a process of another PID namespace", ErrHeld)
	}
	return int(l.Pid), nil
}

// Release gives it up.
func (h *Hold) Release() { _ = h.f.Close() }

func flock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w, by another command", ErrHeld)
	}
	return os.NewSyscallError("flock", err)
}

// MayRun returns nil when the instance whose directory is dir may run on here. An owner
// asks before it lets one go on that stands still.
func MayRun(dir string) error {
	h, err := hold(dir)
	if err != nil {
		return err
	}
	defer h.Release()
	r, err := File(filepath.Join(dir, SentFile)).Load()
	switch {
	case errors.Is(err, ErrNoRecord):
		return nil
	case err != nil:
		return err
	case r.Verdict == IntentRecord:
		return fmt.Errorf("%w: whether it runs at %s by now is in doubt; `hvctl migrate send` asks there again, and `hvctl migrate resolve` decides", ErrHeld, r.Peer)
	case r.Verdict == HandedRecord:
		return fmt.Errorf("%w: it runs at %s by now", ErrHeld, r.Peer)
	}
	return nil
}
