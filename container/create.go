package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/program"
	"github.com/hvctl/hvctl/container/steps"
	"github.com/hvctl/hvctl/internal/systemd"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CreateOptions say which container to make.
type CreateOptions struct {
	ID string
	// Bundle is the folder that relative paths of the configuration count from.
	Bundle string
	// Spec is the configuration; nil: the bundle's config.json.
	Spec *specs.Spec
	// Config is the text that Spec was read from and says the same (Load); nil:
	// Spec is written.
	Config []byte
	// PIDFile receives the first process's ID before Create returns; may be "".
	PIDFile string
	// Stdio are the first process's standard streams; nil: the caller's own.
	// With process.terminal they are the terminal.
	Stdio [3]*os.File
	// ConsoleSocket is a listening socket to which the terminal's master is sent.
	ConsoleSocket string
	// Console is a connected socket for the same, instead of ConsoleSocket.
	Console *os.File
	// PIDFDSocket is a listening socket to which a pidfd of the first process is
	// sent; may be "".
	PIDFDSocket string
	// ExtraFiles become descriptors 3, 4, ... of the program.
	ExtraFiles []*os.File
	// ExecFile executes the first of ExtraFiles: no name is looked up in the
	// container, and process.args[0] is but what the program is called.
	ExecFile bool
	// DieWithCaller has the kernel kill the container when the calling process
	// ends, unless the program changes its identity. It is for a process that
	// lives as long as the container; the thread that calls must last as long, too: for the kernel it is the parent.
	DieWithCaller bool
	// NoPivot moves the root instead of pivot_root, for an initial RAM disk.
	NoPivot bool
	// NoNewKeyring leaves the process in the caller's session keyring.
	NoNewKeyring bool
}

// Proc is a process of a container. It is a child of the calling process, which
// waits for it; a caller that ends leaves it to init or the nearest subreaper.
type Proc struct {
	PID int
	FD  *os.File // pidfd, the caller's to close
}

// Create makes a container whose first process waits to be started. On error
// nothing is left of it.
//
// Errors to test for: ErrInvalidID, ErrExist, ErrConfig.
func (r *Runtime) Create(ctx context.Context, o CreateOptions) (*Proc, error) {
	c, err := r.create(ctx, o, false)
	if err != nil {
		return nil, err
	}
	c.end()
	return &Proc{c.rec.PID, c.pidfd}, nil
}

// Run makes a container and starts it at once, which is faster than Create and
// Start. It stays when its process has ended, to be deleted.
func (r *Runtime) Run(ctx context.Context, o CreateOptions) (*Proc, error) {
	c, err := r.create(ctx, o, true)
	if err != nil {
		return nil, err
	}
	if err = c.hooks(ctx, "startContainer", Created, c.rec); err == nil {
		err = c.release(ctx, c.sync, c.run.Next)
	}
	c.end()
	if err != nil {
		c.pidfd.Close()
		return nil, errors.Join(err, r.Delete(context.WithoutCancel(ctx), o.ID, true))
	}
	return &Proc{c.rec.PID, c.pidfd}, nil
}

// creation is a container while it is made.
type creation struct {
	r     *Runtime
	o     *CreateOptions
	dir   *dir
	rec   *record
	spec  *specs.Spec
	plan  *plan.Plan
	prog  program.Container
	ns    *nsPlan
	group Cgroup
	scope systemd.Scope  // what group is to be; empty: a directory
	run   *steps.Started // the process, until it is the user's program
	sync  *os.File       // to it
	pidfd *os.File
	files []*os.File // its descriptors
	own   []*os.File // those of them that are ours to close

	hooked bool   // hooks have begun to run
	copied copier // into tmpfs
}

// create makes a container; now means that it is started over the connection
// it was made by.
func (r *Runtime) create(ctx context.Context, o CreateOptions, now bool) (_ *creation, err error) {
	c, err := r.begin(&o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.rollback(context.WithoutCancel(ctx))
		}
	}()
	if c.plan, err = buildPlan(c.spec, c.rec); err != nil {
		return nil, err
	}
	c.plan.Root.NoPivot = o.NoPivot
	if p := c.plan.Process; p != nil {
		p.DieWithParent = o.DieWithCaller
		p.Env = withHome(p.Env, c.rec.Rootfs, p.UID)
		p.SetGroups = mayLeaveGroups()
	}
	c.plan.NewKeyring = c.rec.Keyring
	if err = r.filter(c.plan.Process, c.spec.Linux); err != nil {
		return nil, err
	}
	group := c.makeGroup()
	err = c.descriptors(now)
	// It is made meanwhile; the mounts show it, so it has to be there.
	if err = errors.Join(err, c.awaitGroup(group)); err != nil {
		return nil, err
	}
	if err = c.spawn(); err != nil {
		return nil, err
	}
	if err = c.setUp(ctx); err != nil {
		return nil, err
	}
	if err = c.dir.setReady(); err != nil {
		return nil, err
	}
	return c, c.tell()
}

// begin validates, and reserves the name.
func (r *Runtime) begin(o *CreateOptions) (*creation, error) {
	if err := CheckID(o.ID); err != nil {
		return nil, err
	}
	bundle, err := filepath.Abs(o.Bundle)
	if err != nil {
		return nil, err
	}
	c := &creation{r: r, o: o, spec: o.Spec}
	config := o.Config
	if c.spec == nil {
		c.spec, config, err = Load(bundle)
	} else if err = Validate(c.spec); err == nil && config == nil {
		config, err = json.Marshal(c.spec)
	}
	if err != nil {
		return nil, err
	}
	if ns := namespaceOf(c.spec, specs.UserNamespace); unprivileged() && ns != nil && ns.Path == "" {
		if err := ownIDsOnly(c.spec.Linux); err != nil {
			return nil, err
		}
	}
	root, err := rootfs(bundle, c.spec)
	if err != nil {
		return nil, err
	}
	if p := c.spec.Process; p != nil {
		switch terminal, socket := p.Terminal, o.ConsoleSocket != "" || o.Console != nil; {
		case terminal && !socket:
			return nil, errors.New("process.terminal is set: cannot allocate tty if runc will detach without setting console socket (--console-socket)")
		case !terminal && socket:
			return nil, errors.New("cannot use console socket if runc will not detach or allocate tty: process.terminal is not set")
		}
	}
	if c.scope, err = r.scope(c.spec, o.ID); err != nil {
		return nil, err
	}
	if c.dir, err = r.newDir(o.ID); err != nil {
		return nil, err
	}
	c.rec = &record{
		Version: recordVersion, OCIVersion: specs.Version, ID: o.ID, Bundle: bundle, Rootfs: root, Owner: os.Getuid(),
		Created: time.Now().UTC(), Annot: c.spec.Annotations, UserNS: namespaceOf(c.spec, specs.UserNamespace) != nil,
		NoHooks: c.spec.Hooks == nil,
	}
	if !o.NoNewKeyring {
		c.rec.Keyring = "_ses." + o.ID
	}
	if c.rec.Unit = c.scope.Unit; r.Cgroups != nil && c.rec.Unit == "" {
		c.rec.CgroupPath = cgroupPath(c.spec, o.ID)
	}
	if err = c.dir.save(c.rec, true); err == nil {
		err = os.WriteFile(c.dir.file(configFile), config, 0o600)
	}
	if err != nil {
		c.rollback(context.Background())
		return nil, err
	}
	return c, nil
}

// setUp accompanies the process until it waits to be started.
func (c *creation) setUp(ctx context.Context) error {
	if err := setOOMScore(c.rec.PID, c.spec.Process); err != nil {
		return err
	}
	if err := c.answer(); err != nil {
		return err
	}
	if c.prog.Notify != plan.None {
		state, err := c.rec.seccompState(c.spec.Linux.Seccomp, c.rec.PID, specs.StateCreating)
		if err != nil {
			return err
		}
		if _, err := c.sync.Write(state); err != nil {
			return fmt.Errorf("linux.seccomp.listenerPath: %w", err)
		}
	}
	// Whoever cancels ends the process, and with it the wait.
	defer context.AfterFunc(ctx, func() { _ = unix.PidfdSendSignal(int(c.pidfd.Fd()), unix.SIGKILL, nil, 0) })()
	for {
		told, err := c.run.Next()
		switch {
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return c.died()
		case err != nil:
			return err
		case told.Event == program.Ready:
			return nil
		case told.Event == program.Hooks:
			err = c.runtimeHooks(ctx)
		case told.Event == program.CopyUp:
			err = c.copyUp()
		}
		if err == nil {
			err = c.answer()
		}
		if err != nil {
			return err
		}
	}
}

// died says how the process ended that was to become ready. The kernel does not
// count each death for want of memory as a kill: an execve(2) that is out of it
// past the point of no return ends by a fatal signal, only the limit's hits are counted.
func (c *creation) died() error {
	if c.group != nil {
		if s, err := c.group.Stats(); err == nil && (s.Memory.OOMKill > 0 || s.Memory.LimitHits > 0) {
			return errors.New("linux.resources.memory: the container's first process died at its memory limit while it was set up: raise the limit")
		}
	}
	return errors.New("the container's first process died while it was set up")
}

// answer lets the process go on after an event.
func (c *creation) answer() error {
	if _, err := c.sync.Write([]byte{program.Go}); err != nil {
		return fmt.Errorf("%w: %w", c.died(), err)
	}
	return nil
}

// runtimeHooks runs those that come before the root is entered. What the first
// two kinds see differs for the sake of prestart's users: before there was
// "creating", they saw "created".
func (c *creation) runtimeHooks(ctx context.Context) error {
	h := c.spec.Hooks
	c.hooked = true
	creating := c.rec.hookState(Creating)
	if err := c.r.runHooks(ctx, "prestart", h.Prestart, c.rec.hookState(Created), nil); err != nil { //nolint:staticcheck // as above
		return err
	}
	if err := c.r.runHooks(ctx, "createRuntime", h.CreateRuntime, creating, nil); err != nil {
		return err
	}
	return c.r.runHooks(ctx, "createContainer", h.CreateContainer, creating, c.rec)
}

// copyUp receives two directories and copies the one into the other.
func (c *creation) copyUp() error {
	var dirs [2]int
	for i := range dirs {
		fd, err := receiveFD(int(c.sync.Fd()))
		if err != nil {
			return fmt.Errorf("tmpcopyup: %w", err)
		}
		defer unix.Close(fd)
		dirs[i] = fd
	}
	if r := c.spec.Linux.Resources; r != nil && r.Memory != nil && r.Memory.Limit != nil {
		c.copied.limit = *r.Memory.Limit
	}
	if err := c.copied.directory(dirs[0], dirs[1]); err != nil {
		return fmt.Errorf("tmpcopyup: %w", err)
	}
	return nil
}

// receiveFD takes one descriptor from a connection.
func receiveFD(conn int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(conn, make([]byte, 16), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return -1, errors.Join(errors.New("no descriptor came"), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.Join(errors.New("no descriptor came"), err)
	}
	return fds[0], nil
}

// tell hands the process's ID to those who asked.
func (c *creation) tell() error {
	if err := sendPIDFD(c.o.PIDFDSocket, c.pidfd); err != nil {
		return err
	}
	return writePIDFile(c.o.PIDFile, c.rec.PID)
}

// sendPIDFD sends a pidfd to a listening socket; "": nobody wants it.
func sendPIDFD(socket string, pidfd *os.File) error {
	if socket == "" {
		return nil
	}
	s, err := connectUnix("--pidfd-socket", socket)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := unix.Sendmsg(int(s.Fd()), []byte("pidfd"), unix.UnixRights(int(pidfd.Fd())), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("--pidfd-socket: %w", err)
	}
	return nil
}

// end lets go of what is held while a container is made.
func (c *creation) end() {
	if c.sync != nil {
		c.sync.Close()
	}
	if c.run != nil {
		c.run.Close()
	}
	closeAll(c.own)
	c.ns.close()
	c.dir.close()
}

// rollback undoes an attempt. Once hooks have run, those come too that are to
// undo what they did (runtime.md, "Lifecycle", steps 3 to 5, 12 and 13).
func (c *creation) rollback(ctx context.Context) {
	var errs []error
	if c.pidfd != nil {
		_ = unix.PidfdSendSignal(int(c.pidfd.Fd()), unix.SIGKILL, nil, 0) // it may have ended
		errs = append(errs, awaitExit(ctx, int(c.pidfd.Fd())))
		reap(c.rec.PID)
		c.pidfd.Close()
	}
	if c.group != nil {
		errs = append(errs, c.group.Delete(ctx))
	}
	if c.hooked {
		c.r.poststop(ctx, c.spec.Hooks.Poststop, c.rec)
	}
	errs = append(errs, c.dir.remove())
	c.end()
	if err := errors.Join(errs...); err != nil && c.r.Log != nil {
		c.r.Log.Warn("what was made of the container could not be removed", "id", c.o.ID, "err", err)
	}
}
