package cgroup

import (
	"context"
	"fmt"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// OOMKills is how many processes of the group, and of those below it, the
// kernel has killed for its memory limit.
func (g *Group) OOMKills() (uint64, error) {
	dir, v2 := g.of("memory")
	if dir == "" {
		return 0, fmt.Errorf("%w: %q", ErrNoController, "memory")
	}
	file := "memory.oom_control" // Linux 4.13
	if v2 {
		file = "memory.events"
	}
	m, err := readFlat(dir, file)
	if gone(err) && !exists(dir, ".") {
		return 0, fmt.Errorf("%w: %s", ErrNotFound, g)
	}
	if gone(err) {
		return 0, fmt.Errorf("%w: %q is not enabled for %s", ErrNoController, "memory", g)
	}
	return m["oom_kill"], explain(g.String(), err)
}

// WatchOOM calls fn with the count of OOMKills whenever it has grown, until
// ctx ends (then it returns its cause) or the group is removed (nil).
func (g *Group) WatchOOM(ctx context.Context, fn func(kills uint64)) error {
	wait, stop, err := g.oomSource()
	if err != nil {
		return err
	}
	defer stop()
	var told uint64
	for {
		n, err := g.OOMKills()
		if err != nil {
			if !g.Exists() {
				return nil
			}
			return err
		}
		if n > told {
			told = n
			fn(n)
		}
		if err := wait(ctx); err != nil {
			return err
		}
	}
}

// oomSource is something that wakes when the count may have changed.
func (g *Group) oomSource() (wait func(context.Context) error, stop func(), err error) {
	dir, v2 := g.of("memory")
	if dir == "" {
		return nil, nil, fmt.Errorf("%w: %q", ErrNoController, "memory")
	}
	if v2 {
		w, err := watch(dir, "memory.events", "cgroup.events") // the latter for the group's end
		if err != nil {
			return nil, nil, explain(g.String(), err)
		}
		return w.wait, w.close, nil
	}
	f, err := oomEventfd(dir)
	if err != nil {
		return nil, nil, explain(g.String(), err)
	}
	wait = func(ctx context.Context) error {
		before, err := g.OOMKills()
		if err != nil {
			return nil // the caller meets the same error
		}
		if err := readCtx(ctx, f, make([]byte, 8)); err != nil {
			return err
		}
		// v1 tells of the shortage before it kills anybody, if it does.
		short, cancel := context.WithTimeout(ctx, killCounted)
		defer cancel()
		_ = again(short, func() (bool, error) {
			n, err := g.OOMKills()
			return n != before, err
		})
		return ctx.Err()
	}
	return wait, func() { f.Close() }, nil
}

// killCounted is how long after a v1 shortage a kill is waited for.
const killCounted = 2 * time.Second

// oomEventfd registers an eventfd that counts when the v1 group runs out of
// memory, and when it is removed (cgroup-v1/memory.rst, section 10).
func oomEventfd(dir string) (*os.File, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	f := os.NewFile(uintptr(fd), "oom")
	c, err := unix.Open(path.Join(dir, "memory.oom_control"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "open", Path: path.Join(dir, "memory.oom_control"), Err: err}
	}
	defer unix.Close(c)
	if err := write(dir, "cgroup.event_control", fmt.Sprintf("%d %d", fd, c)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
