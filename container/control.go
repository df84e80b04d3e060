package container

import (
	"context"
	"fmt"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// groupFor is the group of a container that the step is legal for. The caller
// closes the directory, whose lock keeps others from changing the container.
func (r *Runtime) groupFor(id string, s step) (*dir, Cgroup, error) {
	d, rec, err := r.locked(id)
	if err != nil {
		return nil, nil, err
	}
	var g Cgroup
	if err = s.check(id, r.status(d, rec)); err == nil {
		find := r.cgroup
		if s == stepUpdate {
			find = r.ownGroup
		}
		g, err = find(rec)
	}
	if err == nil && g == nil {
		err = fmt.Errorf("cannot %s container %q: %w", s, id, ErrNoCgroup)
	}
	if err != nil {
		d.close()
		return nil, nil, err
	}
	return d, g, nil
}

// Pause stops every process of the container until Resume.
//
// Errors to test for: ErrNotExist, ErrNotRunning, ErrState, ErrNoCgroup.
func (r *Runtime) Pause(ctx context.Context, id string) error {
	d, g, err := r.groupFor(id, stepPause)
	if err != nil {
		return err
	}
	defer d.close()
	return g.Freeze(ctx)
}

// Resume lets a paused container go on. Errors are those of Pause.
func (r *Runtime) Resume(ctx context.Context, id string) error {
	d, g, err := r.groupFor(id, stepResume)
	if err != nil {
		return err
	}
	defer d.close()
	return g.Thaw(ctx)
}

// Update changes the limits that res mentions and leaves the others. Errors
// are those of Pause, and package cgroup's about the limits.
func (r *Runtime) Update(_ context.Context, id string, res *specs.LinuxResources) error {
	d, g, err := r.groupFor(id, stepUpdate)
	if err != nil {
		return err
	}
	defer d.close()
	if len(res.Devices) > 0 {
		all := *res
		all.Devices = withDefaultDevices(res.Devices)
		res = &all
	}
	return g.Set(res, r.warning())
}

// Stats is what the container's group uses and has used.
//
// Errors to test for: ErrNotExist, ErrNotRunning, ErrNoCgroup.
func (r *Runtime) Stats(id string) (cgroup.Stats, error) {
	g, err := r.readGroup(id)
	if err != nil {
		return cgroup.Stats{}, err
	}
	return g.Stats()
}

// Procs lists the processes of the container, by their IDs here. Errors are
// those of Stats.
func (r *Runtime) Procs(id string) ([]int, error) {
	g, err := r.readGroup(id)
	if err != nil {
		return nil, err
	}
	return g.Procs()
}

// WatchOOM calls fn with the number of processes that the kernel killed for
// want of memory whenever there are more, until ctx ends or the container's
// group is gone. Errors are those of Stats.
func (r *Runtime) WatchOOM(ctx context.Context, id string, fn func(kills uint64)) error {
	g, err := r.readGroup(id)
	if err != nil {
		return err
	}
	return g.WatchOOM(ctx, fn)
}

// readGroup is the group of a container that runs.
func (r *Runtime) readGroup(id string) (Cgroup, error) {
	d, err := r.openDir(id)
	if err != nil {
		return nil, err
	}
	defer d.close()
	rec, err := d.load()
	switch {
	case err != nil:
		return nil, err
	case rec == nil:
		return nil, fmt.Errorf("container %q: %w", id, ErrNotExist)
	case !rec.alive():
		return nil, fmt.Errorf("container %q: %w", id, ErrNotRunning)
	}
	g, err := r.cgroup(rec)
	if err == nil && g == nil {
		err = fmt.Errorf("container %q: %w", id, ErrNoCgroup)
	}
	return g, err
}
