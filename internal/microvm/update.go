package microvm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/workload"
)

// CheckUpdate implements workload.OwnerUpdater.
func (v *VM) CheckUpdate(u workload.Update) error {
	var errs []error
	have := vcpus(v.cfg.Res.CPUs)
	if g := v.live.Load(); g != nil {
		have, _ = g.machine.CPUs()
	}
	if n := u.CPUs; n != nil && (*n > float64(have) || *n < cgroup.MinCPUs) {
		errs = append(errs, fmt.Errorf("--cpus %g: this VM has %d processors; it can be held to less, of %g at least, not to more (--vcpus gives it more)",
			*n, have, cgroup.MinCPUs))
	}
	if u.PIDs != nil && v.cfg.VM.Raw {
		errs = append(errs, errors.New("--pids-limit: nobody in a machine that is booted as it is takes it"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", workload.ErrUnsupported, err)
	}
	return nil
}

// UpdateInside implements workload.OwnerUpdater: processes are counted by the
// guest's kernel.
func (v *VM) UpdateInside(ctx context.Context, u workload.Update) error {
	if u.PIDs == nil {
		return nil
	}
	g, err := v.withAgent()
	if err == nil && g.machine.Paused() {
		err = fmt.Errorf("%w: --pids-limit: the VM is paused, and its kernel cannot be told", workload.ErrUnsupported)
	}
	if err != nil {
		return err
	}
	return g.session.LimitPIDs(ctx, *u.PIDs)
}

// UpdateDisk implements workload.DiskUpdater.
func (v *VM) UpdateDisk(_ context.Context, u workload.DiskUpdate) error {
	g, err := v.running()
	if err != nil {
		return err
	}
	var serials []string
	for i, d := range v.cfg.VM.Disks {
		serials = append(serials, serialOf(i, d))
	}
	for _, d := range g.machine.DeviceList() {
		if d.Plugged && d.Kind == "blk" {
			serials = append(serials, d.ID)
		}
	}
	disk := g.machine.Disk(u.Serial)
	if disk == nil || !slices.Contains(serials, u.Serial) {
		return fmt.Errorf("%w: no disk %q; there are: %s", workload.ErrUnsupported, u.Serial, cmp.Or(strings.Join(serials, ", "), "none"))
	}
	if u.SizeBytes != nil {
		if err := disk.Resize(*u.SizeBytes); err != nil {
			return err
		}
	}
	limits := disk.Limits()
	if u.IOPS != nil {
		limits.IOPS = *u.IOPS
	}
	if u.BPS != nil {
		limits.BPS = *u.BPS
	}
	return disk.SetLimits(limits)
}

// UpdateBalloon implements workload.BalloonUpdater.
func (v *VM) UpdateBalloon(_ context.Context, bytes uint64) error {
	g, err := v.running()
	switch {
	case err != nil:
		return err
	case v.balloon == nil:
		return fmt.Errorf("%w: the VM was started without --balloon", workload.ErrUnsupported)
	case bytes >= g.machine.Memory().Now:
		return fmt.Errorf("%w: --balloon: the VM has %d MiB of memory, which cannot all be taken from it", workload.ErrUnsupported, g.machine.Memory().Now>>20)
	}
	v.balloon.SetTarget(bytes)
	return nil
}

// UpdateVCPUs implements workload.VCPUUpdater.
func (v *VM) UpdateVCPUs(ctx context.Context, n int) error {
	g, err := v.running()
	if err == nil && v.doubt.Load() != nil {
		err = errDoubt
	}
	if err != nil {
		return err
	}
	if _, most := g.machine.CPUs(); n > most {
		return fmt.Errorf("%w: --vcpus %d: the VM was started for %d at most (--max-cpus)", workload.ErrUnsupported, n, most)
	}
	return notRunning(g.machine.SetCPUs(ctx, n))
}
