package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/userns"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// groupGrace is how long the removal of a dead owner's cgroup may take.
const groupGrace = 5 * time.Second

// newGroup makes the cgroup that the owner of i will live in, if its backend
// has one: nil without. Where groups cannot be made, that is an error only when
// the user asked for something that needs one.
func newGroup(b workload.Backend, i *instance.Instance) (*cgroup.Group, error) {
	path := i.Config().GroupPath()
	if isolated(b) {
		return nil, i.NoteGroup(path) // its owner makes it
	}
	l, ok := b.(workload.OwnerLimiter)
	if !ok {
		return nil, nil
	}
	limits, required := l.OwnerLimits(i.Config())
	if err := i.NoteGroup(path); err != nil { // first: what is made must be found again
		return nil, err
	}
	g, err := cgroup.Create(cgroup.Options{Path: path, Resources: limits})
	if err == nil {
		return g, nil
	}
	if ferr := i.ForgetGroup(); ferr != nil {
		err = errors.Join(err, ferr)
	}
	if required {
		return nil, fmt.Errorf("%s: %w", i.Name(), err)
	}
	return nil, nil
}

// place is where an owner is started.
type place struct {
	sys   *syscall.SysProcAttr
	ids   *userns.Mapping // of a user namespace of its own; nil: none
	group *cgroup.Group   // nil: where we are
	small bool            // without transparent huge pages, which its workload would inherit
}

// start starts a process there.
func (at place) start(argv []string, attr *os.ProcAttr) (*os.Process, error) {
	g := at.group
	attr.Sys = at.sys
	if at.small {
		defer withoutTHP()()
	}
	if at.ids != nil {
		return at.ids.Start(argv, attr)
	}
	if g == nil {
		return os.StartProcess(argv[0], argv, attr)
	}
	f, err := g.File()
	if err != nil {
		return nil, err
	}
	if f != nil {
		defer f.Close()
		sys := *attr.Sys
		sys.UseCgroupFD, sys.CgroupFD = true, int(f.Fd())
		attr = &os.ProcAttr{Dir: attr.Dir, Env: attr.Env, Files: attr.Files, Sys: &sys}
	}
	p, err := os.StartProcess(argv[0], argv, attr)
	if err != nil || !g.NeedsAdd() {
		return p, err
	}
	if err := g.Add(p.Pid); err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		return nil, err
	}
	return p, nil
}

// withoutTHP has processes that are started before restore is called live without
// transparent huge pages. Of those, one for each corner of a Go program's heap
// and data that it touches is more than half of what an owner needs else.
func withoutTHP() (restore func()) {
	if unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) != nil {
		return func() {} // a kernel without them
	}
	return func() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0) }
}

// dropGroup removes the cgroup of an instance without owner, and what may
// still run in it. The caller holds the instance's lock.
func dropGroup(ctx context.Context, i *instance.Instance) error {
	path := i.Group()
	if path == "" {
		return nil
	}
	if err := removeGroup(ctx, path); err != nil {
		return fmt.Errorf("%s: %w", i.Name(), err)
	}
	return i.ForgetGroup()
}

// removeGroup removes an instance's group, and that of its network.
func removeGroup(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, groupGrace)
	defer cancel()
	for _, p := range []string{workload.NetGroup(path), path} {
		g, err := cgroup.Open(p)
		if errors.Is(err, cgroup.ErrNotFound) || errors.Is(err, cgroup.ErrNotMounted) {
			continue
		}
		if err != nil {
			return err
		}
		if err := g.Delete(ctx); err != nil {
			return err
		}
		if cgroup.Within(workload.DefaultCgroupParent, p) {
			g.Prune("/")
		}
	}
	return nil
}

// Sweep removes the cgroups of owners that were killed.
func Sweep(ctx context.Context, s *instance.Store) error {
	stray, err := s.StrayGroups()
	if err != nil {
		return err
	}
	var errs []error
	for id, path := range stray {
		if err := removeGroup(ctx, path); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, s.ForgetGroup(id))
	}
	pruneParent()
	return errors.Join(errs...)
}

// pruneParent removes the group that owners' groups lie in when there are none:
// the last one, which is confined, cannot.
func pruneParent() {
	g, err := cgroup.Open(workload.DefaultCgroupParent)
	if err == nil {
		g, err = g.Child("any")
	}
	if err == nil {
		g.Prune("/")
	}
}

// detached is a session of its own, away from our terminal and its signals, and
// for the owner of a container a mount namespace of its own; to make that, who is
// not root needs a user namespace, too.
func detached(b workload.Backend, group *cgroup.Group) place {
	at := place{sys: &syscall.SysProcAttr{Setsid: true}, group: group, small: !isolated(b)}
	if isolated(b) {
		at.sys.Cloneflags = syscall.CLONE_NEWNS
		if os.Geteuid() != 0 {
			m, _ := userns.Own()
			at.ids = &m
		}
	}
	return at
}

func isolated(b workload.Backend) bool {
	i, ok := b.(workload.Isolator)
	return ok && i.OwnMounts()
}
