package cgroup

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Kill sends SIGKILL to every process of the group and of those below it,
// forks in flight included, and returns when none is left (that its parent has
// not waited for it does not matter). A group that is gone has no processes.
// ctx bounds the wait; without deadline it is 10 seconds.
func (g *Group) Kill(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	err := g.kill(ctx)
	switch {
	case err == nil, gone(err) && !g.Exists():
		return nil
	case timedOut(err):
		pids, _ := g.Procs()
		return fmt.Errorf("cgroup %s: processes %v did not end after SIGKILL: %w", g, pids, err)
	}
	return explain(g.String(), err)
}

func (g *Group) kill(ctx context.Context) error {
	if dir := g.v2(); dir != "" {
		err := write(dir, "cgroup.kill", "1") // Linux 5.14
		if err == nil {
			if err := g.thawV1(); err != nil {
				return err
			}
			return awaitEvent(ctx, dir, "populated", 0)
		}
		if !gone(err) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	return again(ctx, func() (bool, error) { return g.killRound(ctx) })
}

// killRound kills what is there now. Frozen, nobody forks meanwhile and no
// process ID changes hands; thawed, they take the signal.
func (g *Group) killRound(ctx context.Context) (bool, error) {
	pids, err := g.Procs()
	if errors.Is(err, ErrNotFound) {
		return true, nil
	}
	if err != nil || len(pids) == 0 {
		return len(pids) == 0 && err == nil, err
	}
	short, cancel := context.WithTimeout(ctx, defaultPatience/10)
	_ = g.freeze(short) // as far as it goes: the next round gets the others
	cancel()
	if pids, err = g.Procs(); err == nil {
		for _, pid := range pids {
			if pid <= 0 {
				return false, fmt.Errorf("cgroup %s: a process in it belongs to a PID namespace that is not ours", g)
			}
			if kerr := unix.Kill(pid, unix.SIGKILL); kerr != nil && !errors.Is(kerr, unix.ESRCH) {
				err = errors.Join(err, fmt.Errorf("process %d: %w", pid, kerr))
			}
		}
	}
	if gone(err) || errors.Is(err, ErrNotFound) {
		return true, nil
	}
	return false, errors.Join(err, g.thaw(), g.thawV1())
}

// thawV1 thaws every group of the freezer hierarchy, where a frozen process
// takes no signal.
func (g *Group) thawV1() error {
	dir, v2 := g.of("freezer")
	if dir == "" || v2 {
		return nil
	}
	err := walk(dir, func(d string) error { return write(d, "freezer.state", "THAWED") })
	if gone(err) {
		return nil
	}
	return err
}

// AwaitEmpty returns when no process is left in the group and those below it, or it is
// gone. ctx bounds the wait; without deadline it is 10 seconds.
func (g *Group) AwaitEmpty(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	err := again(ctx, func() (bool, error) {
		pids, err := g.Procs()
		return len(pids) == 0, err
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Signal sends sig to every process of the group once. Those that fork
// meanwhile may be missed; Kill misses none.
func (g *Group) Signal(sig unix.Signal) error {
	pids, err := g.Procs()
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		if pid <= 0 {
			continue
		}
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}
