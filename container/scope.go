package container

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hvctl/hvctl/container/steps"
	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/systemd"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// scopes is the cgroups of this host as systemd makes them.
type scopes struct {
	hostCgroups
	manager systemd.Manager
}

// scopeGroup is the group of a scope. Its limits are set in both ways: as the
// unit's properties, which systemd keeps, and then exactly, as files.
type scopeGroup struct {
	hostGroup
	scopes scopes
	unit   string
	// While a container is made:
	hold *holder
	late *specs.LinuxResources // what the first process could not be born under
}

// systemdScopes is r's Cgroups with systemd in front.
func (r *Runtime) systemdScopes() (scopes, error) {
	h, ok := r.Cgroups.(hostCgroups)
	switch {
	case r.Systemd == nil:
		return scopes{}, errors.New("the container's cgroup is a unit of systemd's, which this program does not speak to: use hvctl-oci")
	case !ok:
		return scopes{}, fmt.Errorf("--systemd-cgroup: %w", cgroup.ErrNotMounted)
	case h.sys.Mode() != cgroup.V2:
		return scopes{}, fmt.Errorf("--systemd-cgroup: %w: cgroup v2 alone is needed, and here is %s; without the flag, cgroups are made through their file systems", cgroup.ErrUnsupported, h.sys.Mode())
	}
	m, err := r.Systemd()
	return scopes{h, m}, err
}

// create makes a scope for the container id with its limits, and in it a process
// that keeps it until Settle.
func (s scopes) create(ctx context.Context, scope systemd.Scope, id string, res *specs.LinuxResources, warn func(string)) (_ *scopeGroup, err error) {
	first, late := bearable(res)
	files, err := s.sys.Files(first)
	if err != nil {
		return nil, err
	}
	hold, err := newHolder()
	if err != nil {
		return nil, err
	}
	g := &scopeGroup{scopes: s, unit: scope.Unit, hold: hold, late: late}
	started := false
	defer func() {
		if err != nil {
			hold.end()
			if started {
				err = errors.Join(err, s.manager.Stop(context.WithoutCancel(ctx), scope.Unit))
			}
		}
	}()
	if err = s.manager.Start(ctx, scope.Unit, append(systemd.New(scope, id, hold.pid), systemd.Limits(files)...)); err != nil {
		return nil, err
	}
	started = true
	path, _, err := s.manager.Find(ctx, scope.Unit)
	if err != nil {
		return nil, err
	}
	group, err := s.sys.Create(cgroup.Options{Path: path, Resources: first, Join: true, Warn: warn})
	g.hostGroup = hostGroup{group}
	return g, err
}

// find is the group of a unit whose directory is not known, if that was made for
// the container id: it may have found the name taken, and come no further.
func (s scopes) find(ctx context.Context, unit, id string) (Cgroup, error) {
	path, description, err := s.manager.Find(ctx, unit)
	if err == nil && description != systemd.Description(id) {
		err = fmt.Errorf("%w of this container's: %s is %q", systemd.ErrNoUnit, unit, description)
	}
	if errors.Is(err, systemd.ErrNoUnit) {
		return nil, fmt.Errorf("%w: %w", cgroup.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	group, err := s.sys.Open(path)
	if err != nil {
		return nil, err
	}
	return &scopeGroup{hostGroup: hostGroup{group}, scopes: s, unit: unit}, nil
}

// bearable splits limits in those that a container can be made under and the
// rest: while it is made there are up to three processes in its group.
func bearable(res *specs.LinuxResources) (first, late *specs.LinuxResources) {
	const most = 3
	if res.Pids == nil || res.Pids.Limit == nil || *res.Pids.Limit < 0 || *res.Pids.Limit > most {
		return res, nil
	}
	without := *res
	without.Pids = nil
	return &without, &specs.LinuxResources{Pids: res.Pids}
}

// Settle implements Cgroup: the scope has a process of the container's now.
func (g *scopeGroup) Settle(warn func(string)) error {
	g.hold.end()
	if g.late == nil {
		return nil
	}
	return g.Set(g.late, warn)
}

// Set implements Cgroup.
func (g *scopeGroup) Set(res *specs.LinuxResources, warn func(string)) error {
	files, err := g.Files(res)
	if err != nil {
		return err
	}
	if err := g.scopes.manager.Set(context.Background(), g.unit, systemd.Limits(files)); err != nil {
		return err
	}
	return g.hostGroup.Set(res, warn)
}

// Delete implements Cgroup. Whoever is in the scope is killed first: systemd
// would ask nicely, and wait.
func (g *scopeGroup) Delete(ctx context.Context) error {
	err := g.Kill(ctx)
	if g.hold.end(); isGone(err) {
		err = nil
	}
	return errors.Join(err, g.scopes.manager.Stop(ctx, g.unit), g.hostGroup.Delete(ctx))
}

// holder is a process that does nothing. systemd makes no scope without one, and
// ends one that has none left; our own is to be in no limits but its own. It
// ends with us at the latest.
type holder struct {
	pid  int
	pipe *os.File
}

func newHolder() (*holder, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	r, w := os.NewFile(uintptr(pipe[0]), "hold"), os.NewFile(uintptr(pipe[1]), "hold")
	defer r.Close()
	p := steps.New()
	p.Call("wait for the end", unix.SYS_READ, 0, uint64(p.Space(8)), 1)
	p.Call("exit", unix.SYS_EXIT_GROUP, 0)
	run, err := p.Start([]*os.File{r}, nil)
	if err != nil {
		w.Close()
		return nil, err
	}
	run.Close()
	return &holder{run.PID, w}, nil
}

// end ends the process; nil and one that ended are fine.
func (h *holder) end() {
	if h == nil || h.pid == 0 {
		return
	}
	h.pipe.Close()
	reap(h.pid)
	h.pid = 0
}
