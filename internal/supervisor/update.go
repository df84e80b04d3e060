package supervisor

import (
	"context"
	"fmt"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/workload"
)

// Update implements control.Owner.
func (o *owner) Update(ctx context.Context, u workload.Update) error {
	if err := o.here(); err != nil {
		return err
	}
	o.updating.Lock()
	defer o.updating.Unlock()
	if err := o.update(ctx, u); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if u.Step == workload.UpdateAsk {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.st.Status != workload.Running && o.st.Status != workload.Paused {
		return nil // it ended meanwhile
	}
	limits := o.cfg.Res
	if o.st.Limits != nil {
		limits = *o.st.Limits
	}
	limits = u.Apply(limits)
	o.st.Limits = &limits
	if err := o.inst.WriteState(o.st); err != nil {
		o.log.Error("recording the state", "err", err)
	}
	o.event(control.EventUpdate, nil)
	return nil
}

func (o *owner) update(ctx context.Context, u workload.Update) error {
	if u.Disk != nil {
		rt, ok := o.rt.(workload.DiskUpdater)
		if !ok {
			return fmt.Errorf("%w: %s instances have no disks", workload.ErrUnsupported, o.cfg.Backend)
		}
		return rt.UpdateDisk(ctx, *u.Disk)
	}
	if u.BalloonBytes != nil {
		rt, ok := o.rt.(workload.BalloonUpdater)
		if !ok {
			return fmt.Errorf("%w: %s instances have no balloon", workload.ErrUnsupported, o.cfg.Backend)
		}
		return rt.UpdateBalloon(ctx, *u.BalloonBytes)
	}
	if u.Link != nil {
		rt, ok := o.rt.(workload.LinkUpdater)
		if !ok {
			return fmt.Errorf("%w: %s instances have no link", workload.ErrUnsupported, o.cfg.Backend)
		}
		return rt.UpdateLink(ctx, *u.Link)
	}
	if u.VCPUs != nil {
		return o.updateVCPUs(ctx, *u.VCPUs)
	}
	if rt, ok := o.rt.(workload.MemoryUpdater); ok && u.MemoryBytes != nil {
		if u != (workload.Update{MemoryBytes: u.MemoryBytes}) {
			return fmt.Errorf("%w: memory and other limits of a VM at once: change one after the other", workload.ErrUnsupported)
		}
		ctx, cancel := patience(ctx, workload.MaxPlugTimeout)
		defer cancel()
		return rt.UpdateMemory(ctx, *u.MemoryBytes)
	}
	switch rt := o.rt.(type) {
	case workload.Updater:
		return rt.Update(ctx, u)
	case workload.OwnerUpdater:
		if err := rt.CheckUpdate(u); err != nil {
			return err
		}
		return o.updateOwner(ctx, rt, u)
	}
	return fmt.Errorf("%w (%s)", workload.ErrUnsupported, o.cfg.Backend)
}

// updateOwner changes limits that hold for the owner's group, and those that the
// instance keeps by itself: these first, for they may fail.
func (o *owner) updateOwner(ctx context.Context, rt workload.OwnerUpdater, u workload.Update) error {
	whole := u.CPUs != nil || u.CPUWeight != nil || u.BlockIO != nil
	if whole && o.group == nil {
		return fmt.Errorf("%w: the instance has no cgroup: it was started without the permission to make one", workload.ErrUnsupported)
	}
	if u.Step == workload.UpdateDone {
		return nil
	}
	ctx, cancel := patience(ctx, 0)
	defer cancel()
	if err := rt.UpdateInside(ctx, u); err != nil || !whole {
		return err
	}
	if u.Step == workload.UpdateAsk { // the rest is the caller's
		return nil
	}
	l := cgroup.Limits{IO: u.BlockIO}
	if u.CPUs != nil {
		l.CPUs = *u.CPUs
	}
	if u.CPUWeight != nil {
		l.Weight = *u.CPUWeight
	}
	return o.group.Set(l.Resources(), func(msg string) { o.log.Warn("update", "note", msg) })
}

// updateVCPUs has processors come or go, and then gives the group time for as many. A
// machine that is booted as it is has processors, not a share of them.
func (o *owner) updateVCPUs(ctx context.Context, n int) error {
	rt, ok := o.rt.(workload.VCPUUpdater)
	if !ok {
		return fmt.Errorf("%w: %s instances have no processors of their own", workload.ErrUnsupported, o.cfg.Backend)
	}
	ctx, cancel := patience(ctx, 0)
	defer cancel()
	if err := rt.UpdateVCPUs(ctx, n); err != nil || o.group == nil || o.cfg.VM.Raw || o.apart() {
		return err // the caller does what we may not
	}
	return o.group.Set(cgroup.Limits{CPUs: float64(n)}.Resources(), func(msg string) { o.log.Warn("update", "note", msg) })
}
