package launch

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/migrate/handoff"
)

// Upgrade has the running instance go on in a new owner, a process of program. It
// is ours to start, for the old owner may start nothing. level is what it logs
// from; empty: INFO. Test the error as Client.Upgrade's.
func (h *Handle) Upgrade(ctx context.Context, program, level string) (json.RawMessage, error) {
	here, there, err := handoff.Pair()
	if err != nil {
		return nil, err
	}
	defer here.Close()
	at := detached(h.Backend, h.Config(), nil)
	if path := h.Group(); path != "" {
		if at.group, err = cgroup.Open(path); err != nil && !errors.Is(err, cgroup.ErrNotFound) && !errors.Is(err, cgroup.ErrNotMounted) {
			_ = there.Close()
			return nil, err
		}
	}
	proc, err := spawn(at, []string{program, h.Dir()}, h.Dir(), level, instance.Handover{Link: 3}, []*os.File{nil, nil, nil, there})
	_ = there.Close()
	if err != nil {
		return nil, err
	}
	fd, err := unix.PidfdOpen(proc.Pid, 0)
	if err != nil {
		err = os.NewSyscallError("pidfd_open", err)
	} else {
		process := os.NewFile(uintptr(fd), "the new owner")
		defer process.Close()
		var report json.RawMessage
		report, err = h.Client.Upgrade(ctx, control.UpgradeRequest{Program: program, PID: proc.Pid, Link: here, Process: process})
		if err == nil {
			return report, nil // it lives on without us
		}
	}
	// The old owner has killed it, unless the guest is its own by now: then it
	// goes on.
	_ = here.Close()
	return nil, err
}
