package nscontainer

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// Stats reports what the container and its owner cost the host.
func (c *Container) Stats(context.Context) (workload.Stats, error) {
	if _, err := c.running(); err != nil {
		return workload.Stats{}, err
	}
	s, err := c.groupStats()
	if err != nil {
		return s, err
	}
	if c.net != nil {
		if s.NetRxBytes, s.NetTxBytes, err = c.net.Traffic(); err != nil {
			c.log.Debug("network statistics", "err", err)
		}
	}
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return s, os.NewSyscallError("getrusage", err)
	}
	s.CPUNanoseconds += uint64(ru.Utime.Nano() + ru.Stime.Nano())
	own, err := residentBytes()
	s.MemoryBytes += own
	return s, err
}

// groupStats is what the container's processes cost, as their cgroup has it.
func (c *Container) groupStats() (workload.Stats, error) {
	if c.group == nil {
		return c.processStats()
	}
	g, err := c.group.Stats()
	if err != nil {
		return workload.Stats{}, err
	}
	s := workload.Stats{
		At: time.Now(), CPUNanoseconds: uint64(g.CPU.Usage), MemoryBytes: g.Memory.Usage, MemoryLimitBytes: g.Memory.Limit, PIDs: g.PIDs.Current,
		Cgroup: &workload.CgroupStats{
			Path: c.group.String(), CPUNanoseconds: uint64(g.CPU.Usage), ThrottledNanoseconds: uint64(g.CPU.ThrottledTime),
			MemoryBytes: g.Memory.Usage, MemoryPeakBytes: g.Memory.Peak, Tasks: g.PIDs.Current, OOMKills: g.Memory.OOMKill,
		},
	}
	for _, d := range g.IO {
		s.BlockReadBytes += d.ReadBytes
		s.BlockWriteBytes += d.WriteBytes
	}
	return s, nil
}

// residentBytes is this process's resident memory.
func residentBytes() (uint64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var size, resident uint64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0, fmt.Errorf("/proc/self/statm: %w", err)
	}
	return resident * uint64(os.Getpagesize()), nil
}

// Update implements workload.Updater.
func (c *Container) Update(ctx context.Context, u workload.Update) error {
	if _, err := c.running(); err != nil {
		return err
	}
	if n := u.CPUs; n != nil && *n < cgroup.MinCPUs {
		return fmt.Errorf("%w: --cpus %g: the kernel gives no less than %g of a processor", workload.ErrUnsupported, *n, cgroup.MinCPUs)
	}
	r := u.Apply(workload.Resources{})
	if err := c.oci.Update(ctx, c.cfg.ID, resources(r)); err != nil {
		return err
	}
	return c.updateNetwork(r)
}

// Inspect tells what only a container has.
func (c *Container) Inspect() map[string]any {
	p, err := c.running()
	if err != nil {
		return map[string]any{}
	}
	m := map[string]any{"pid": p.pid, "rootfs": fmt.Sprintf("/proc/%d/root", p.pid)}
	if c.group != nil {
		m["cgroup"] = c.group.String()
	}
	if c.net != nil {
		c.net.Describe(m)
	}
	return m
}

// newOOM reports whether the kernel killed a process of the container for lack
// of memory since newOOM last said so.
func (c *Container) newOOM() bool {
	if c.group == nil {
		return false
	}
	n, err := c.group.OOMKills()
	if err != nil {
		return false
	}
	c.ooms.Lock()
	defer c.ooms.Unlock()
	if n <= c.counted {
		return false
	}
	c.counted++
	return true
}
