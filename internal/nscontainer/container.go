package nscontainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/hostnet"
	"github.com/hvctl/hvctl/internal/userns"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// endTimeout bounds the removal of the container's processes and group.
const endTimeout = 10 * time.Second

// Container is one container. It is a workload.Runtime. Before Start has
// returned, and after the first process has ended, everything but Wait and
// Close is refused with workload.ErrNotRunning.
type Container struct {
	cfg *workload.Config
	dir string
	log *slog.Logger
	oci *container.Runtime
	ids userns.Mapping // of the user namespace that this process is in

	// What Start made so far; only Start and Close use these.
	layers *layers
	group  *cgroup.Group // nil: none could be made
	// netGroup is that of the user-mode network's process; nil: there is none.
	netGroup *cgroup.Group
	made     bool     // the container exists
	root     *os.File // its root directory, whatever becomes of its processes and their numbers
	net      *hostnet.Attachment

	first atomic.Pointer[process] // set when the program runs

	ooms    sync.Mutex
	counted uint64 // OOM kills accounted for; guarded by ooms

	closing sync.Once
	over    chan struct{} // closed when Close has done its work
	err     error
}

var (
	_ workload.Runtime         = (*Container)(nil)
	_ workload.Pauser          = (*Container)(nil)
	_ workload.Updater         = (*Container)(nil)
	_ workload.Inspector       = (*Container)(nil)
	_ workload.NetworkReporter = (*Container)(nil)
	_ workload.Copier          = (*Container)(nil)
	_ workload.Lister          = (*Container)(nil)
)

// New prepares the runtime of the instance whose state directory is dir. It
// starts and holds nothing yet. The process must be in a mount namespace of its
// own.
func New(cfg *workload.Config, dir string, log *slog.Logger) (*Container, error) {
	c := &Container{cfg: cfg, dir: dir, log: log, over: make(chan struct{})}
	var err error
	if c.ids, err = userns.Current(); err != nil {
		return nil, err
	}
	c.oci = &container.Runtime{Root: filepath.Join(dir, "oci"), Log: log}
	if !c.grouped() {
		return c, nil
	}
	if c.oci.Cgroups, err = container.HostCgroups(); err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	return c, nil
}

// Start makes the container and runs its first process. On error what was made
// is kept until Close.
func (c *Container) Start(ctx context.Context, io workload.Stdio) (workload.Process, error) {
	var err error
	if c.layers, err = mountLayers(c.cfg, c.dir, !c.ids.Initial()); err != nil {
		return nil, err
	}
	tree, err := etcfiles.OpenTree(c.layers.root)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	who, err := c.user(tree, c.cfg.Spec.Process)
	if err != nil {
		return nil, err
	}
	spec := Spec(c.cfg, c.layers.root, who)
	if !c.ids.Initial() {
		rootless(spec, c.ids, c.grouped())
	}
	// The working directory is made, as container engines do.
	if d, err := tree.MkdirAll(spec.Process.Cwd, 0o755); err == nil {
		d.Close()
	}
	p, err := c.connect(io, spec.Process)
	if err != nil {
		return nil, err
	}
	made, err := c.create(ctx, container.CreateOptions{
		ID: c.cfg.ID, Bundle: c.dir, Spec: spec, Stdio: p.theirs, Console: p.socket, DieWithCaller: true,
	})
	p.closeTheirs()
	if err != nil {
		p.abandon()
		return nil, c.explain(startError(err))
	}
	c.made = true
	if err := p.adopt(made); err != nil {
		return nil, err
	}
	if c.grouped() {
		if c.group, err = cgroup.Open(spec.Linux.CgroupsPath); err != nil {
			return nil, err
		}
	}
	if err := c.attachNetwork(ctx, made.PID); err != nil {
		return nil, err
	}
	if err := c.writeNames(tree); err != nil {
		return nil, err
	}
	// While the process cannot be anybody else: it is our child and not reaped.
	if c.root, err = os.OpenFile(fmt.Sprintf("/proc/%d/root", made.PID), unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	if err := c.oci.Start(ctx, c.cfg.ID); err != nil {
		return nil, startError(err)
	}
	p.run()
	c.first.Store(p)
	return p, nil
}

// create has a thread make the container that does nothing else, up to Close: the
// kernel kills the container when the thread ends that made it, and threads of Go
// do end, with goroutines that were locked to them.
func (c *Container) create(ctx context.Context, o container.CreateOptions) (made *container.Proc, err error) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked: it must not serve others in between
		made, err = c.oci.Create(ctx, o)
		failed := err != nil
		close(done)
		if !failed {
			<-c.over
		}
	}()
	<-done
	return made, err
}

// explain says more of refusals: of those that come out of the namespaces as
// text, and of cgroups that a user has no right to.
func (c *Container) explain(err error) error {
	if errors.Is(err, cgroup.ErrPermission) && !c.ids.Initial() {
		return fmt.Errorf("%w; %s", err, delegateHint)
	}
	d := c.cfg.Res.Deadline
	if d == nil || !strings.HasPrefix(err.Error(), "process.scheduler") {
		return err
	}
	for _, errno := range []unix.Errno{unix.EBUSY, unix.EPERM} {
		if strings.HasSuffix(err.Error(), errno.Error()) {
			return d.Explain(errno)
		}
	}
	return d.Explain(err)
}

// running returns the first process while it runs.
func (c *Container) running() (*process, error) {
	p := c.first.Load()
	if p == nil {
		return nil, workload.ErrNotRunning
	}
	select {
	case <-p.ended:
		return nil, workload.ErrNotRunning
	default:
		return p, nil
	}
}

// Exec runs another process in the container.
func (c *Container) Exec(ctx context.Context, spec *specs.Process, io workload.Stdio) (workload.Process, error) {
	if _, err := c.running(); err != nil {
		return nil, err
	}
	tree, err := c.tree()
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	who, err := c.user(tree, spec)
	if err != nil {
		return nil, err
	}
	own := *spec
	identify(c.cfg, &own, who)
	p, err := c.connect(io, &own)
	if err != nil {
		return nil, err
	}
	made, err := c.oci.Exec(ctx, c.cfg.ID, container.ExecOptions{Process: &own, Stdio: p.theirs, Console: p.socket})
	p.closeTheirs()
	if err != nil {
		p.abandon()
		return nil, startError(err)
	}
	if err := p.adopt(made); err != nil {
		return nil, err
	}
	p.run()
	return p, nil
}

// Shutdown implements workload.Runtime. A container has no power button: what
// the stop signal did not end, nothing gentler than the end will.
func (c *Container) Shutdown(context.Context) error {
	return fmt.Errorf("%w: a container has no gentler way to end than its stop signal", workload.ErrUnsupported)
}

// Kill ends every process at once: the first one takes its PID namespace, and
// with it everybody else, along. A paused container is let go on for that.
func (c *Container) Kill(ctx context.Context) error {
	if _, err := c.running(); err != nil {
		return err
	}
	// With the first one alone, the others would go on until its end takes them along:
	// not those of a container that may run elsewhere by now.
	all := commit.MayRun(c.dir) != nil
	err := c.oci.Kill(ctx, c.cfg.ID, unix.SIGKILL, all)
	if errors.Is(err, container.ErrNotRunning) || errors.Is(err, container.ErrNotExist) {
		return nil // it ended meanwhile, and may be cleaned up already
	}
	return err
}

// Pause stops every process where it is.
func (c *Container) Pause(ctx context.Context) error {
	if _, err := c.running(); err != nil {
		return err
	}
	if c.group == nil {
		return errNoGroup
	}
	return c.oci.Pause(ctx, c.cfg.ID)
}

// Resume undoes Pause, unless the container is being moved, or may run elsewhere.
func (c *Container) Resume(ctx context.Context) error {
	if _, err := c.running(); err != nil {
		return err
	}
	if c.group == nil {
		return errNoGroup
	}
	if err := commit.MayRun(c.dir); err != nil {
		return fmt.Errorf("%w: %w", workload.ErrNotRunning, err)
	}
	return c.oci.Resume(ctx, c.cfg.ID)
}

// Close ends what still runs and frees everything.
func (c *Container) Close() error {
	c.closing.Do(func() {
		c.err = c.close()
		close(c.over)
	})
	return c.err
}

func (c *Container) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	var errs []error
	if c.made {
		errs = append(errs, c.oci.Delete(ctx, c.cfg.ID, true))
	}
	errs = append(errs, c.closeNetwork(ctx))
	if c.cfg.Res.CgroupParent == "" {
		prune()
	}
	if c.root != nil {
		errs = append(errs, c.root.Close())
	}
	if c.layers != nil {
		errs = append(errs, c.layers.close())
	}
	errs = append(errs, os.RemoveAll(c.oci.Root))
	return errors.Join(errs...)
}

// prune removes the group that instances' groups are in, if this was the last.
func prune() {
	parent, err := cgroup.Open(workload.DefaultCgroupParent)
	if err != nil {
		return
	}
	if g, err := parent.Child("any"); err == nil { // it need not exist
		g.Prune("/")
	}
}
