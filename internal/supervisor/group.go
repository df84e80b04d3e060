package supervisor

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
)

// groupGrace is how long the removal of our own cgroup may take.
const groupGrace = 5 * time.Second

// openGroup finds the cgroup that the starter put this process into; nil
// without one.
func (o *owner) openGroup() *cgroup.Group {
	path := o.inst.Group()
	if path == "" {
		return nil
	}
	g, err := cgroup.Open(path)
	if errors.Is(err, cgroup.ErrNotFound) {
		return nil // the runtime makes it, for others than us
	}
	if err != nil {
		o.log.Warn("the instance's cgroup", "path", path, "err", err)
		return nil
	}
	return g
}

// apart tells whether this process has a user of its own by now, who may change nothing
// about the group.
func (o *owner) apart() bool {
	euid := os.Geteuid()
	return euid != 0 && euid == instance.UserOf(o.inst.ID())
}

// leaveGroup ends the group that this process lives in: by moving out of it
// first. Where that is not allowed (a delegated tree), the next command removes
// the group when we are gone.
func (o *owner) leaveGroup() {
	g := o.group
	if o.apart() {
		return // that is for whoever waits for the end, or the next command
	}
	if g == nil {
		o.forgetGroup()
		return
	}
	if err := g.Leave(); err != nil {
		o.log.Debug("leaving the cgroup", "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), groupGrace)
	defer cancel()
	if err := g.Delete(ctx); err != nil {
		o.log.Warn("removing the cgroup", "err", err)
		return
	}
	if o.cfg.Res.CgroupParent == "" {
		g.Prune("/")
	}
	o.forgetGroup()
}

// forgetGroup removes the note of a group that is gone.
func (o *owner) forgetGroup() {
	path := o.inst.Group()
	if path == "" {
		return
	}
	if _, err := cgroup.Open(path); !errors.Is(err, cgroup.ErrNotFound) && !errors.Is(err, cgroup.ErrNotMounted) {
		return // the next command removes it
	}
	if err := o.inst.ForgetGroup(); err != nil {
		o.log.Warn("removing the cgroup's note", "err", err)
	}
}

// groupStats is what the host charges the instance's group with; nil without
// one.
func (o *owner) groupStats() *workload.CgroupStats {
	if o.group == nil {
		return nil
	}
	s, err := o.group.Stats()
	if err != nil {
		o.log.Debug("statistics of the cgroup", "err", err)
		return nil
	}
	return &workload.CgroupStats{
		Path: o.group.String(), CPUNanoseconds: uint64(s.CPU.Usage), ThrottledNanoseconds: uint64(s.CPU.ThrottledTime),
		MemoryBytes: s.Memory.Usage, MemoryPeakBytes: s.Memory.Peak, Tasks: s.PIDs.Current, OOMKills: s.Memory.OOMKill,
	}
}
