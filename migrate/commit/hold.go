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
	f, err := os.OpenFile(filepath.Join(dir, holdFile), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Hold{f}, nil
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
	h, err := TakeHold(dir)
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
