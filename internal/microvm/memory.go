package microvm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
)

// UpdateMemory implements workload.MemoryUpdater.
func (v *VM) UpdateMemory(ctx context.Context, bytes uint64) error {
	g, err := v.running()
	if err == nil && v.doubt.Load() != nil {
		err = errDoubt
	}
	if err != nil {
		return err
	}
	if v.cfg.VM.MaxMemoryBytes == 0 {
		return fmt.Errorf("%w: --memory: a VM's memory is fixed when it starts, unless it is started with --max-memory", workload.ErrUnsupported)
	}
	now := g.machine.Memory()
	if bytes < v.cfg.Res.MemoryBytes || bytes > now.Most {
		return fmt.Errorf("%w: --memory: the VM was started with %d MiB and can be given %d at most; less than at the start it has by --balloon only",
			workload.ErrUnsupported, v.cfg.Res.MemoryBytes>>20, now.Most>>20)
	}
	if v.balloon != nil && v.balloon.Target() >= bytes {
		return fmt.Errorf("%w: --memory: its balloon is to take %d MiB, which would be all", workload.ErrUnsupported, v.balloon.Target()>>20)
	}
	return notRunning(g.machine.SetMemory(ctx, bytes, workload.PlugTimeout*time.Second))
}

// errGrows is why memory cannot come later.
var errGrows = errors.New("a VM with --max-memory has a second mapping of the memory that it was given, whose pages cannot be brought when they are touched")

// notLater refuses a migration that may end by post-copy, where memory can grow.
func (v *VM) notLater(r workload.MigrateRequest) error {
	if v.cfg.VM.MaxMemoryBytes > 0 && (r.AtOnce || migrate.OnTimeout(r.OnTimeout) == migrate.Later) {
		return fmt.Errorf("%w: post-copy: %w", workload.ErrUnsupported, errGrows)
	}
	return nil
}
