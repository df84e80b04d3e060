package container

import (
	"context"
	"errors"
	"os"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Cgroups is what the runtime needs of a host's cgroups.
type Cgroups interface {
	// Create makes the group path (OCI's linux.cgroupsPath) with its limits.
	Create(path string, res *specs.LinuxResources, warn func(string)) (Cgroup, error)
	// Load finds a group that Create made, by its Paths.
	Load(paths map[string]string) (Cgroup, error)
	// Open finds a group by its path. The error wraps cgroup.ErrNotFound.
	Open(path string) (Cgroup, error)
}

// Cgroup is one container's group.
type Cgroup interface {
	// Paths are its directories by controller, the v2 tree's by "".
	Paths() map[string]string
	// File opens it for a child to be born in; nil where there is no v2 tree.
	File() (*os.File, error)
	// Doors are the files by which a process enters what File does not lead
	// into, or with all everything, by writing "0".
	Doors(all bool) ([]*os.File, error)
	// Settle is called when the first process is in it.
	Settle(warn func(string)) error
	// Child is a group below it, which has to exist.
	Child(name string) (Cgroup, error)
	// Home is the group below it that its process pid is in, where it cannot have
	// processes itself; else it is the group.
	Home(pid int) Cgroup
	Set(res *specs.LinuxResources, warn func(string)) error
	Procs() ([]int, error)
	Freeze(ctx context.Context) error
	Thaw(ctx context.Context) error
	Frozen() (bool, error)
	Kill(ctx context.Context) error
	Delete(ctx context.Context) error
	Stats() (cgroup.Stats, error)
	// WatchOOM calls fn whenever the kernel killed for want of memory, until
	// ctx ends or the group is gone.
	WatchOOM(ctx context.Context, fn func(kills uint64)) error
}

// HostCgroups are the cgroups of this host, through their file systems. The
// error wraps cgroup.ErrNotMounted where there are none.
func HostCgroups() (Cgroups, error) {
	s, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	return hostCgroups{s}, nil
}

type hostCgroups struct{ sys *cgroup.System }

func (h hostCgroups) Create(path string, res *specs.LinuxResources, warn func(string)) (Cgroup, error) {
	return wrapGroup(h.sys.Create(cgroup.Options{Path: path, Resources: res, Warn: warn}))
}

func (h hostCgroups) Load(paths map[string]string) (Cgroup, error) {
	return wrapGroup(h.sys.Load(paths))
}

func (h hostCgroups) Open(path string) (Cgroup, error) { return wrapGroup(h.sys.Open(path)) }

// hostGroup is a Cgroup; only its children have to be of the same type.
type hostGroup struct{ *cgroup.Group }

// Settle implements Cgroup: a directory stays by itself.
func (hostGroup) Settle(func(string)) error { return nil }

func wrapGroup(g *cgroup.Group, err error) (Cgroup, error) {
	if err != nil {
		return nil, err
	}
	return hostGroup{g}, nil
}

func (g hostGroup) Child(name string) (Cgroup, error) {
	c, err := g.Group.Child(name)
	if err == nil && !c.Exists() {
		err = cgroup.ErrNotFound
	}
	return wrapGroup(c, err)
}

func (g hostGroup) Home(pid int) Cgroup { return hostGroup{g.Group.Home(pid)} }

// isGone says that there is nothing left of a group that was to be used.
func isGone(err error) bool {
	return errors.Is(err, cgroup.ErrNotFound) || errors.Is(err, os.ErrNotExist)
}
