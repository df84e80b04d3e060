package nscontainer

import (
	"context"
	"errors"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// What a container's user-mode network may take: twice what its connections can
// hold (docs/networking.md), and more threads than it has.
const (
	netMemory = 384 << 20
	netTasks  = 256
)

// confineNetwork puts the process of the container's user-mode network into a
// group beside the container's. Its memory is bounded apart, for a container
// with little would have none left; of the processors it gets what the container
// does.
func (c *Container) confineNetwork(pid int) error {
	if c.group == nil {
		return nil // an ordinary user without a delegated one
	}
	res := networkShare(c.cfg.Res)
	n, tasks := int64(netMemory), int64(netTasks)
	res.Memory = &specs.LinuxMemory{Limit: &n, Swap: &n}
	res.Pids = &specs.LinuxPids{Limit: &tasks}
	g, err := cgroup.Create(cgroup.Options{Path: workload.NetGroup(c.cfg.GroupPath()), Resources: res})
	if err != nil {
		return err
	}
	c.netGroup = g
	return g.Add(pid)
}

// networkShare is the processor time of a container's network.
func networkShare(r workload.Resources) *specs.LinuxResources {
	return cgroup.Limits{CPUs: r.CPUs, Weight: r.CPUWeight}.Resources()
}

// updateNetwork has the network follow a change of the container's limits.
func (c *Container) updateNetwork(r workload.Resources) error {
	if c.netGroup == nil {
		return nil
	}
	err := c.netGroup.Set(networkShare(r), nil)
	if errors.Is(err, cgroup.ErrNotFound) {
		return nil
	}
	return err
}

// closeNetwork ends the network and removes its group.
func (c *Container) closeNetwork(ctx context.Context) error {
	var errs []error
	if c.net != nil {
		errs = append(errs, c.net.Close())
	}
	if c.netGroup != nil {
		errs = append(errs, c.netGroup.Delete(ctx))
	}
	return errors.Join(errs...)
}
