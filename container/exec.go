package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/program"
	"github.com/hvctl/hvctl/container/steps"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ExecOptions say which process to start in a running container.
type ExecOptions struct {
	// Process is the program and what it is allowed. Begin with a copy of the
	// container's own (Config), to be under the same limits.
	Process *specs.Process
	// Spec is the container's configuration, where the caller has read it
	// (Config) already; nil: it is read.
	Spec *specs.Spec
	// PIDFile receives the process's ID before Exec returns; may be "".
	PIDFile string
	// Stdio, ConsoleSocket, Console, ExtraFiles and ExecFile are as in
	// CreateOptions.
	Stdio         [3]*os.File
	ConsoleSocket string
	Console       *os.File
	ExtraFiles    []*os.File
	ExecFile      bool
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
	st := r.status(d, rec)
	if st != Paused || !o.IgnorePaused {
		if err := stepExec.check(id, st); err != nil {
			return nil, err
		}
	}
	spec := o.Spec
	if spec == nil {
		if spec, err = d.config(); err != nil {
			return nil, err
		}
	}
	e := &execution{r: r, o: &o, rec: rec, spec: spec, paused: st == Paused}
	return e.start(ctx)
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
	r      *Runtime
	o      *ExecOptions
	rec    *record
	spec   *specs.Spec
	paused bool
	files  []*os.File // the process's descriptors
	own    []*os.File // those of them that are ours to close
}

func (e *execution) start(ctx context.Context) (*Proc, error) {
	pr, err := processPlan(e.o.Process, e.spec.Linux)
	if err != nil {
		return nil, err
	}
	pr.SetGroups, pr.KeepFDs, pr.ByFD = !e.rec.groupsDenied(), uint32(len(e.o.ExtraFiles)), e.o.ExecFile
	pr.Env = withHome(pr.Env, fmt.Sprintf("/proc/%d/root", e.rec.PID), pr.UID)
	if err := e.r.filter(pr, e.spec.Linux); err != nil {
		return nil, err
	}
	defer func() { closeAll(e.own) }()
	e.files = append(stdio(e.o.Stdio), e.o.ExtraFiles...)
	t := &program.Target{Process: pr, OOM: e.o.Process.OOMScoreAdj, Keyring: e.rec.Keyring}
	conns := *t
	state, err := e.connect(&conns)
	if err != nil {
		return nil, err
	}
	if state != nil {
		defer state.Close()
	}
	j, err := e.r.target(t, e.rec, e.o.Cgroup, len(e.files), e.paused)
	if err != nil {
		return nil, err
	}
	defer j.close()
	e.files = append(e.files, j.files...)
	t.Console, t.Notify, t.State = conns.Console, conns.Notify, conns.State
	run, err := program.Enter(t).Start(e.files, j.attr())
	if err != nil {
		return nil, err
	}
	defer run.Close()
	closeAll(e.own) // the other ends of connections, above all
	e.own = nil
	return e.follow(ctx, run, state)
}

// groupsDenied says that setgroups(2) is forbidden in the container's user
// namespace (user_namespaces(7)).
func (rec *record) groupsDenied() bool {
	if !rec.UserNS {
		return false
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(rec.PID) + "/setgroups")
	return err == nil && string(b) == "deny\n"
}

// give adds a descriptor of the process and returns its number there.
func (e *execution) give(f *os.File, own bool) int {
	e.files = append(e.files, f)
	if own {
		e.own = append(e.own, f)
	}
	return len(e.files) - 1
}

// connect opens the connections that the process sends something over. state
// takes what goes with the seccomp listener; nil: there is none.
func (e *execution) connect(t *program.Target) (state *os.File, err error) {
	t.Console, t.Notify, t.State = plan.None, plan.None, plan.None
	switch {
	case e.o.Console != nil:
		t.Console = e.give(e.o.Console, false)
	case e.o.ConsoleSocket != "":
		s, err := connectUnix("--console-socket", e.o.ConsoleSocket)
		if err != nil {
			return nil, err
		}
		t.Console = e.give(s, true)
	}
	path := listenerPath(e.spec.Linux)
	if path == "" {
		return nil, nil
	}
	s, err := connectUnix("linux.seccomp.listenerPath", path)
	if err != nil {
		return nil, err
	}
	t.Notify = e.give(s, true)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	t.State = e.give(r, true)
	return w, nil
}

// follow waits until the process is the program, or could not be.
func (e *execution) follow(ctx context.Context, run *steps.Started, state *os.File) (p *Proc, err error) {
	defer reap(run.PID) // it ends when it has told of its child, or failed
	defer context.AfterFunc(ctx, func() { _ = unix.Kill(run.PID, unix.SIGKILL) })()
	for {
		told, rerr := run.Next()
		switch {
		case errors.Is(rerr, io.EOF) && p != nil && err == nil:
			if err = e.tell(p); err == nil {
				return p, nil
			}
		case rerr != nil && !errors.Is(rerr, io.EOF):
			err = rerr // and on to the end, for the child's ID may be still to come
			continue
		case rerr == nil: // the child may have failed before we are told of it
			var aerr error
			p, aerr = e.adopt(told.Child, state)
			if err = errors.Join(err, aerr); aerr == nil {
				continue
			}
		}
		if p != nil {
			_ = unix.Kill(p.PID, unix.SIGKILL) // our child, not reaped yet
			reap(p.PID)
			p.FD.Close()
		}
		if err == nil {
			err = errors.Join(fmt.Errorf("exec in container %q: the process that joins its namespaces died", e.rec.ID), context.Cause(ctx))
		}
		return nil, err
	}
}

// adopt takes the child that the program tells of, and gives it what it waits
// for.
func (e *execution) adopt(pid int, state *os.File) (*Proc, error) {
	fd, err := unix.PidfdOpen(pid, 0) // our child, not reaped before we do
	if err != nil {
		reap(pid)
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	p := &Proc{pid, os.NewFile(uintptr(fd), "pidfd")}
	if state != nil {
		var text []byte
		if text, err = e.rec.seccompState(e.spec.Linux.Seccomp, pid, specs.StateRunning); err == nil {
			_, err = state.Write(text)
		}
	}
	return p, err
}

// tell hands the process's ID to those who asked.
func (e *execution) tell(p *Proc) error {
	if err := sendPIDFD(e.o.PIDFDSocket, p.FD); err != nil {
		return err
	}
	return writePIDFile(e.o.PIDFile, p.PID)
}
