package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// Delete removes the group and those below it in every hierarchy. What still
// runs in it is killed: a group that is deleted was its owner's to delete. A
// group that does not exist is no error. ctx bounds all of it; without
// deadline it is 10 seconds.
func (g *Group) Delete(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	killed := false
	err := again(ctx, func() (bool, error) {
		err := g.remove()
		if !errors.Is(err, unix.EBUSY) {
			return err == nil, err
		}
		if !killed { // afterwards it is only a matter of the kernel's cleaning up
			killed = true
			return false, g.Kill(ctx)
		}
		return false, nil
	})
	if timedOut(err) {
		pids, _ := g.Procs()
		return fmt.Errorf("cgroup %s: could not be removed in time, processes %v: %w", g, pids, err)
	}
	return explain(g.String(), err)
}

// remove tries once, in every hierarchy.
func (g *Group) remove() error {
	var errs []error
	for _, dir := range g.dirs {
		if dir == "" {
			continue
		}
		// Nearly always there is nothing below: one call does it.
		err := rmdir(dir)
		if errors.Is(err, unix.EBUSY) {
			if err = walk(dir, rmdir); gone(err) {
				err = nil
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func rmdir(dir string) error {
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// Prune removes the groups on the way to g that nobody uses, at most those
// below keep ("/" takes all of them). It never removes one with processes or
// children, and fails silently: Create makes them again.
func (g *Group) Prune(keep string) {
	for i, dir := range g.dirs {
		if dir == "" {
			continue
		}
		stop := below(g.sys.trees[i].dir, keep)
		for at := path.Dir(dir); at != stop && Within(stop, at); at = path.Dir(at) {
			if unix.Rmdir(at) != nil {
				break
			}
		}
	}
}
