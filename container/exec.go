package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/spawn"
	"github.com/hvctl/hvctl/container/stage"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ExecOptions say which process to start in a running container.
type ExecOptions struct {
	// Process is the program and what it is allowed. Begin with a copy of the
	// container's own (Config), to be under the same limits.
	Process *specs.Process
	// PIDFile receives the process's ID before Exec returns; may be "".
	PIDFile string
	// Stdio, ConsoleSocket, Console and ExtraFiles are as in CreateOptions.
	Stdio         [3]*os.File
	ConsoleSocket string
	Console       *os.File
	ExtraFiles    []*os.File
	PIDFDSocket   string
	// Cgroup is a group below the container's to run in; "": that itself.
	Cgroup string
	// IgnorePaused starts it in a paused container, to run when that goes on.
	IgnorePaused bool
}

// Exec starts a process in a container and returns when its program runs.
//
// Errors to test for: ErrNotExist, ErrNotRunning, ErrState, ErrConfig.
func (r *Runtime) Exec(ctx context.Context, id string, o ExecOptions) (*Proc, error) {
	if err := ValidateProcess(o.Process); err != nil {
		return nil, err
	}
	if socket := o.ConsoleSocket != "" || o.Console != nil; o.Process.Terminal != socket {
		return nil, errors.New("a console socket and process.terminal go together")
	}
	d, err := r.openDir(id)
	if err != nil {
		return nil, err
	}
	defer d.close()
	rec, err := d.load()
	if err != nil {
		return nil, err
	}
	if rec == nil {
		return nil, fmt.Errorf("container %q: %w", id, ErrNotExist)
	}
	if st := r.status(d, rec); st != Paused || !o.IgnorePaused {
		if err := stepExec.check(id, st); err != nil {
			return nil, err
		}
	}
	spec, err := d.config()
	if err != nil {
		return nil, err
	}
	e := &execution{creation: creation{r: r, dir: d, rec: rec, spec: spec}, o: &o}
	defer e.close()
	if err := e.start(ctx); err != nil {
		return nil, err
	}
	return &Proc{e.pid, e.pidfd}, nil
}

// Config is the configuration that a container was made from.
func (r *Runtime) Config(id string) (*specs.Spec, error) {
	d, err := r.openDir(id)
	if err != nil {
		return nil, err
	}
	defer d.close()
	return d.config()
}

// execution is a further process while it is started.
type execution struct {
	creation // of the container: its record, configuration and the like
	o        *ExecOptions
	pid      int
}

func (e *execution) close() {
	for _, f := range e.own {
		f.Close()
	}
	if e.sync != nil {
		e.sync.Close()
	}
}

func (e *execution) start(ctx context.Context) error {
	pr, err := processPlan(e.o.Process, e.spec.Linux)
	if err != nil {
		return err
	}
	pr.SetGroups = !e.groupsDenied()
	e.plan = &plan.Plan{Kind: plan.Exec, StartFD: plan.None, ConsoleFD: plan.None, SeccompFD: plan.None, UserNS: e.rec.UserNS, Process: pr}
	if err := e.r.filter(pr, e.spec.Linux); err != nil {
		return err
	}
	if err := e.connect(); err != nil {
		return err
	}
	if e.pid, err = e.spawn(); err != nil {
		return fmt.Errorf("exec in container %q: %w", e.rec.ID, err)
	}
	fd, err := unix.PidfdOpen(e.pid, 0) // our child
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	e.pidfd = os.NewFile(uintptr(fd), "pidfd")
	if err := e.release(ctx); err != nil {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it may have ended
		reap(e.pid)
		e.pidfd.Close()
		return err
	}
	return nil
}

// groupsDenied says that setgroups(2) is forbidden in the container's user
// namespace (user_namespaces(7)).
func (e *execution) groupsDenied() bool {
	if !e.rec.UserNS {
		return false
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(e.rec.PID) + "/setgroups")
	return err == nil && string(b) == "deny\n"
}

// connect opens what the stage is given.
func (e *execution) connect() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	e.sync = os.NewFile(uintptr(pair[0]), "sync")
	e.creation.o = &CreateOptions{ConsoleSocket: e.o.ConsoleSocket, Console: e.o.Console}
	e.files = append(e.files, stdio(e.o.Stdio)...)
	e.give(os.NewFile(uintptr(pair[1]), "sync"), true)
	if e.plan.ConsoleFD, err = e.console(); err != nil {
		return err
	}
	if err := e.seccompListener(); err != nil {
		return err
	}
	if n := len(e.o.ExtraFiles); n > 0 {
		e.plan.Process.KeepBase, e.plan.Process.KeepFDs = uint32(len(e.files)), uint32(n)
		e.files = append(e.files, e.o.ExtraFiles...)
	}
	return nil
}

// spawn starts the stage inside the container.
func (e *execution) spawn() (int, error) {
	fd, err := e.rec.pidfd()
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	exe, err := e.r.self()
	if err != nil {
		return 0, err
	}
	defer exe.Close()
	groups, err := e.groups()
	if err != nil {
		return 0, err
	}
	defer closeAll(groups)
	flags, user := e.namespaces()
	return spawn.Join(&spawn.JoinRequest{
		Request: spawn.Request{Exe: exe, Args: []string{"hvctl-oci", stage.Verb}, Env: stageEnv(), Files: e.files, NoGroups: e.groupsDenied()},
		Join:    []spawn.Namespaces{{FD: fd, Flags: flags}}, UserNS: user, Cgroups: groups,
	})
}

// namespaces are those of the container that are not ours.
func (e *execution) namespaces() (flags int, user bool) {
	for _, ns := range [...]struct {
		name string
		flag int
	}{
		{"user", unix.CLONE_NEWUSER}, {"mnt", unix.CLONE_NEWNS}, {"pid", unix.CLONE_NEWPID}, {"net", unix.CLONE_NEWNET},
		{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"cgroup", unix.CLONE_NEWCGROUP}, {"time", unix.CLONE_NEWTIME},
	} {
		if !sameNamespace(e.rec.PID, ns.name) {
			flags |= ns.flag
		}
	}
	return flags, flags&unix.CLONE_NEWUSER != 0
}

// groups opens the files by which the process enters the container's group.
func (e *execution) groups() ([]*os.File, error) {
	g, err := e.r.cgroup(e.rec)
	if err != nil || g == nil {
		return nil, err
	}
	if e.o.Cgroup != "" {
		if g, err = g.Child(e.o.Cgroup); err != nil {
			return nil, fmt.Errorf("--cgroup %s: %w", e.o.Cgroup, err)
		}
	}
	var out []*os.File
	seen := map[string]bool{}
	for _, dir := range g.Paths() {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		f, err := os.OpenFile(dir+"/cgroup.procs", os.O_WRONLY, 0)
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// release gives the stage its plan and waits until it is the program.
func (e *execution) release(ctx context.Context) error {
	if err := setOOMScore(e.pid, e.o.Process); err != nil {
		return err
	}
	e.seccompState(e.pid, specs.StateRunning)
	b, err := e.plan.Encode()
	if err != nil {
		return err
	}
	// Written before the program runs: its end may be noticed at once.
	if err := writePIDFile(e.o.PIDFile, e.pid); err != nil {
		return err
	}
	e.creation.o.PIDFDSocket = e.o.PIDFDSocket
	if err := e.sendPIDFD(); err != nil {
		return err
	}
	for _, f := range e.own { // the stage's end of the connection, above all
		f.Close()
	}
	e.own = nil
	if err := plan.WritePlan(e.sync, b); err != nil {
		return fmt.Errorf("give the process its plan: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = unix.PidfdSendSignal(int(e.pidfd.Fd()), unix.SIGKILL, nil, 0) })()
	switch k, text, err := plan.Receive(e.sync); {
	case err == nil && k == plan.Failed:
		return errors.New(text)
	case err == nil:
		return fmt.Errorf("the process said %q", k)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}
