package restart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/moves"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/commit"
	"golang.org/x/sys/unix"
)

// Status says where the latest Move of h has got to, of which its owner knows nothing. ok is
// false for a VM that its owner has sent, or that nobody has.
func Status(ctx context.Context, h *launch.Handle) (s workload.MigrationStatus, ok bool, err error) {
	dir := h.Dir()
	if h.Config().Backend == "vm" {
		if s, err = h.Client.Migration(ctx); err != nil || s.State != workload.MigrationNone {
			return s, false, err
		}
	}
	s = workload.MigrationStatus{State: workload.MigrationNone}
	a, err := moves.LoadAttempt(dir)
	if errors.Is(err, moves.ErrNone) {
		return s, true, nil
	}
	if err != nil {
		return s, false, err
	}
	s = workload.MigrationStatus{State: workload.MigrationOver, To: a.To, BeganNs: a.Began.UnixNano(), Error: a.Error}
	if s.Report, err = json.Marshal(a.Report); err != nil {
		return s, false, err
	}
	r, err := commit.File(filepath.Join(dir, commit.SentFile)).Load()
	if err != nil && !errors.Is(err, commit.ErrNoRecord) {
		return s, false, err
	}
	doubt := err == nil && r.Verdict == commit.IntentRecord
	fd, err := commit.Holder(dir)
	if err != nil {
		return s, false, err
	}
	if fd >= 0 {
		unix.Close(fd)
	}
	switch {
	case doubt && fd < 0:
		s.State = workload.MigrationInDoubt
		s.Error = "the command that moved it has ended, and it stands still; `hvctl migrate send --mode restart` to the same place asks there, and `hvctl migrate resolve` decides"
	case doubt:
		s.State, s.Error = workload.MigrationInDoubt, "the destination has the right to run it, and is asked whether it does"
	case fd >= 0:
		s.State = workload.MigrationGoing
	case a.Ended.IsZero():
		s.Error = "the command that moved it was killed; it stands still if it was about to be packed or sent, and `hvctl resume` lets it go on"
	}
	return s, true, nil
}

// Cancel calls the Move of h that is under way off, and returns when the instance goes on here.
// ok is false when none is.
func Cancel(ctx context.Context, h *launch.Handle) (ok bool, err error) {
	fd, err := commit.Holder(h.Dir())
	if err != nil || fd < 0 {
		return false, err
	}
	defer unix.Close(fd)
	if s, _, err := Status(ctx, h); err == nil && s.State == workload.MigrationInDoubt {
		return true, tooLate(s.To)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGINT, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return true, os.NewSyscallError("pidfd_send_signal", err)
	}
	for ended := false; !ended; { // a pidfd is readable when its process has ended
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, look)
		switch ended = n > 0; {
		case err != nil && !errors.Is(err, unix.EINTR):
			return true, os.NewSyscallError("poll", err)
		case ctx.Err() != nil:
			return true, context.Cause(ctx)
		}
	}
	r, err := commit.File(filepath.Join(h.Dir(), commit.SentFile)).Load()
	if err == nil && (r.Verdict == commit.IntentRecord || r.Verdict == commit.HandedRecord) {
		return true, tooLate(r.Peer)
	}
	if _, err := os.Stat(h.Dir()); errors.Is(err, os.ErrNotExist) {
		return true, tooLate("its destination")
	}
	return true, nil
}

// look is how often Cancel looks whether it is called off itself, in milliseconds.
const look = 200

func tooLate(to string) error {
	return fmt.Errorf("too late: the right to run it was handed over to %s", to)
}
