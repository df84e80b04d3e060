package nscontainer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/proctable"
	"github.com/hvctl/hvctl/internal/userns"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// An ordinary user's container: its owner was started as root of a user namespace,
// in which it may mount, and the container has one more, in which nothing of the
// owner's is its own. The IDs of both are the same.

// delegateHint says how a user gets a cgroup.
const delegateHint = "an ordinary user makes cgroups only where some were delegated: " +
	"run hvctl within such a group and name one below it with --cgroup-parent (systemd-run --user --scope -p Delegate=yes), or leave the limits out"

// errNoGroup is why a container cannot be frozen.
var errNoGroup = fmt.Errorf("%w: this container has no cgroup to freeze; start it with --cgroup-parent in a group that was delegated to you", workload.ErrUnsupported)

// ttyGroup is the group of terminals, everywhere.
const ttyGroup = 5

// grouped says whether the container has a cgroup. That of an ordinary user has
// one only when it asks for something that needs it.
func (c *Container) grouped() bool {
	r := c.cfg.Res
	return c.ids.Initial() || r.CgroupParent != "" || r.CPUs != 0 || r.CPUWeight != 0 || r.MemoryBytes != 0 || r.PIDs != 0 || r.BlockIO != nil
}

// rootless changes a configuration to what the root of a user namespace can do.
func rootless(s *specs.Spec, ids userns.Mapping, grouped bool) {
	l := s.Linux
	l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	l.UIDMappings, l.GIDMappings = same(ids.UIDs), same(ids.GIDs)
	if !grouped {
		l.Resources, l.CgroupsPath = nil, ""
	}
	ownNet := slices.ContainsFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	var mounts []specs.Mount
	for _, m := range s.Mounts {
		switch {
		case m.Type == "cgroup" && !grouped:
			continue
		case m.Type == "sysfs" && !ownNet: // it shows the network's namespace, which is not ours
			m = specs.Mount{Destination: m.Destination, Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
		case m.Type == "devpts" && !ids.Covers(0, ttyGroup):
			m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return strings.HasPrefix(o, "gid=") })
		}
		mounts = append(mounts, m)
	}
	s.Mounts = mounts
}

// same maps the IDs of a namespace to themselves.
func same(rs []userns.Range) (out []specs.LinuxIDMapping) {
	for _, r := range rs {
		out = append(out, specs.LinuxIDMapping{ContainerID: r.Inside, HostID: r.Inside, Size: r.Size})
	}
	return out
}

// pids are the host's numbers of the container's processes.
func (c *Container) pids() ([]int, error) {
	if c.group != nil {
		return c.oci.Procs(c.cfg.ID)
	}
	p, err := c.running()
	if err != nil {
		return nil, err
	}
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p.pid))
	if err != nil {
		return nil, err
	}
	found, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, dir := range found {
		if ns, err := os.Readlink(dir + "/ns/pid"); err != nil || ns != own {
			continue // gone, or none of ours
		}
		if n, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			out = append(out, n)
		}
	}
	return out, nil
}

// processStats adds up what living processes cost: all that is known without a
// cgroup.
func (c *Container) processStats() (workload.Stats, error) {
	s := workload.Stats{At: time.Now()}
	pids, err := c.pids()
	if err != nil {
		return s, err
	}
	ps, err := proctable.Read(pids)
	if err != nil {
		return s, err
	}
	for _, p := range ps {
		s.CPUNanoseconds += uint64(p.CPU)
		s.MemoryBytes += p.RSS
		s.PIDs += uint64(p.Threads)
	}
	return s, nil
}
