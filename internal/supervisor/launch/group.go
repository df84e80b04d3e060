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
	apart bool            // in namespaces of its own, where that is possible
}

// apartFlags are the namespaces of the owner of a VM. Once the guest runs, the first has
// nothing in it but what is the VM's (package confine).
const apartFlags = syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS

// start starts a process there. It reads in its environment which mount namespace is
// ours, to tell whether it has its own.
func (at place) start(argv []string, attr *os.ProcAttr) (*os.Process, error) {
	if !at.apart {
		return at.startIn(argv, attr)
	}
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	attr.Env = append(attr.Env, instance.MountsEnv+"="+ours)
	together := at.sys
	sys := *at.sys
	sys.Cloneflags |= apartFlags
	at.sys = &sys
	p, err := at.startIn(argv, attr)
	// Root in a container, a kernel without, a limit on their number: it is confined by
	// other means all the same, and says so.
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSPC) {
		at.sys = together
		p, err = at.startIn(argv, attr)
	}
	return p, err
}

func (at place) startIn(argv []string, attr *os.ProcAttr) (*os.Process, error) {
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
		awaitEmpty(ctx, path) // its owner may have ended by itself, and be about to say so
		if err := removeGroup(ctx, path); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, s.ForgetGroup(id))
	}
	pruneParent()
	return errors.Join(append(errs, s.SweepRemoved())...)
}

// lastGrace is how long an owner that has let go of its instance may take to end.
const lastGrace = 3 * time.Second

// awaitEmpty returns when nothing is left in a group, or lastGrace is over.
func awaitEmpty(ctx context.Context, path string) {
	g, err := cgroup.Open(path)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastGrace)
	defer cancel()
	_ = g.AwaitEmpty(ctx) // then it is emptied
}

// Bury takes away what an owner with a user of its own may not, when it has ended: its
// cgroup, and what is left of an instance that has removed itself. Others may do the
// same meanwhile, and it does nothing for an instance that lives on. What fails here, the
// next command does. Preconditions: the owner has said that this is the end.
func (h *Handle) Bury(ctx context.Context) {
	if !h.Apart() || !h.awaitOwner(ctx) {
		return
	}
	if path := h.Group(); path != "" {
		awaitEmpty(ctx, path)
		if dropGroup(ctx, h.Instance) != nil { // an instance that has ended does not start again
			return
		}
		pruneParent()
	}
	_ = h.SweepRemoved()
}

// awaitOwner waits until the owner, which has said its last word, has ended.
func (h *Handle) awaitOwner(ctx context.Context) bool {
	for deadline := time.Now().Add(lastGrace); h.Living(); {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return false
		}
		time.Sleep(forceLook) //nolint:forbidigo // between two looks, until a deadline
	}
	return true
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
// not root needs a user namespace, too. The owner of a VM gets namespaces where it
// takes nothing else and it can live in them: in its own mount namespace it would
// only keep the host's file systems busy.
func detached(b workload.Backend, c *workload.Config, group *cgroup.Group) place {
	at := place{sys: &syscall.SysProcAttr{Setsid: true}, group: group, small: !isolated(b)}
	if isolated(b) {
		at.sys.Cloneflags = syscall.CLONE_NEWNS
		if os.Geteuid() != 0 {
			m, _ := userns.Own()
			at.ids = &m
		}
	} else {
		at.apart = os.Geteuid() == 0 && c.OwnRoot()
	}
	return at
}

func isolated(b workload.Backend) bool {
	i, ok := b.(workload.Isolator)
	return ok && i.OwnMounts()
}
