package microvm

import (
	"context"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/plan"
)

// carry brings the root file system's image to a destination that lacks it, and puts the
// name that it has there into cfg, which describes the VM. The guest feels nothing.
func (v *VM) carry(ctx context.Context, dial migrate.Dial, p plan.Plan, cfg *workload.Config, o migrate.SendOptions) (sent uint64, err error) {
	if p.Action(plan.Layers, filepath.Base(cfg.Rootfs.ImagePath)) != plan.Copy {
		return 0, nil
	}
	name, sent, err := migrate.SendOpenImage(ctx, dial, v.image, o)
	if err != nil {
		return 0, err
	}
	cfg.Rootfs.ImagePath = filepath.Join(filepath.Dir(cfg.Rootfs.ImagePath), name)
	v.log.Info("the image is at the destination", "name", name, "bytes", sent)
	return sent, nil
}
