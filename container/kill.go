package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Kill sends a signal to the container's first process, or to all processes of
// its group. SIGKILL reaches a paused container, too, by letting it go on.
//
// Errors to test for: ErrNotExist, ErrNotRunning.
func (r *Runtime) Kill(ctx context.Context, id string, sig unix.Signal, all bool) error {
	d, err := r.openDir(id) // without the lock: a start that hangs has to be killed, too
	if err != nil {
		return err
	}
	defer d.close()
	rec, err := d.load()
	if err != nil {
		return err
	}
	if rec == nil {
		return fmt.Errorf("container %q: %w", id, ErrNotExist)
	}
	g, err := r.cgroup(rec)
	if err != nil && !isGone(err) {
		return err
	}
	if all && g != nil {
		return killAll(ctx, id, g, sig)
	}
	fd, err := rec.pidfd()
	if err != nil {
		return fmt.Errorf("cannot kill container %q: %w", id, ErrNotRunning)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot kill container %q: %w", id, ErrNotRunning)
	} else if err != nil {
		return fmt.Errorf("cannot kill container %q: %w", id, err)
	}
	if sig == unix.SIGKILL && g != nil {
		return thawed(ctx, g)
	}
	return nil
}

// killAll signals everybody in the group. That nobody is there any more is no
// error: whoever asks for all wants to know that none is left.
func killAll(ctx context.Context, id string, g Cgroup, sig unix.Signal) error {
	if sig == unix.SIGKILL {
		return g.Kill(ctx)
	}
	pids, err := g.Procs()
	if err != nil && !isGone(err) {
		return err
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("container %q: process %d: %w", id, pid, err))
		}
	}
	return errors.Join(errs...)
}

// thawed lets a frozen group go on: on cgroup v1 it does not even die.
func thawed(ctx context.Context, g Cgroup) error {
	if frozen, err := g.Frozen(); err != nil || !frozen {
		return nil // nothing to thaw, or nothing there
	}
	return g.Thaw(ctx)
}

// awaitExit waits until the process of a pidfd has ended; whether it was waited
// for by its parent does not matter. ctx bounds the wait, or 10 seconds.
func awaitExit(ctx context.Context, pidfd int) error {
	const longest, round = 10 * time.Second, 50 * time.Millisecond
	end := time.Now().Add(longest)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(round.Milliseconds()))
		switch {
		case n > 0:
			return nil
		case err != nil && err != unix.EINTR:
			return fmt.Errorf("poll a pidfd: %w", err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(end):
			return errors.New("the process did not end within 10 seconds after SIGKILL")
		}
	}
}
