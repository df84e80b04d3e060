package workloadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Variables of a workload's environment that make the fake misbehave.
const (
	// FailStart makes Start fail with the variable's text.
	FailStart = "FAKE_FAIL_START"
	// HangStart makes Start wait until its context ends.
	HangStart = "FAKE_HANG_START"
	// IgnoreShutdown makes Shutdown do nothing.
	IgnoreShutdown = "FAKE_IGNORE_SHUTDOWN"
	// IgnoreSignals makes Signal wait until its context ends, as a guest does
	// that answers nothing. Kill works.
	IgnoreSignals = "FAKE_IGNORE_SIGNALS"
	// DieAt makes the owner kill itself with SIGKILL at a step: "new",
	// "start", "started", "close".
	DieAt = "FAKE_DIE_AT"
)

// Runtime runs processes on the host.
type Runtime struct {
	cfg *workload.Config

	mu     sync.Mutex
	procs  map[*process]struct{}
	killed bool
}

var (
	_ workload.Runtime         = (*Runtime)(nil)
	_ workload.Pauser          = (*Runtime)(nil)
	_ workload.Inspector       = (*Runtime)(nil)
	_ workload.NetworkReporter = (*Runtime)(nil)
	_ workload.OwnerUpdater    = (*Runtime)(nil)
)

// CheckUpdate implements workload.OwnerUpdater: the fake's memory is as fixed
// as a VM's.
func (r *Runtime) CheckUpdate(u workload.Update) error {
	if u.MemoryBytes != nil {
		return fmt.Errorf("%w: memory", workload.ErrUnsupported)
	}
	return nil
}

// UpdateInside implements workload.OwnerUpdater: as a guest may, the fake refuses
// more than mostPIDs processes.
func (r *Runtime) UpdateInside(_ context.Context, u workload.Update) error {
	if u.PIDs != nil && *u.PIDs > mostPIDs {
		return fmt.Errorf("%d processes: the fake has %d at most", *u.PIDs, mostPIDs)
	}
	return nil
}

const mostPIDs = 1000

// NewRuntime is the function an owner gives to supervisor.Run.
func NewRuntime(c *workload.Config) (workload.Runtime, error) {
	dieAt(c, "new")
	return &Runtime{cfg: c, procs: map[*process]struct{}{}}, nil
}

func dieAt(c *workload.Config, step string) {
	if lookup(c.Spec.Process.Env, DieAt) == step {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}

// Start implements workload.Runtime.
func (r *Runtime) Start(ctx context.Context, io workload.Stdio) (workload.Process, error) {
	dieAt(r.cfg, "start")
	env := r.cfg.Spec.Process.Env
	if msg := lookup(env, FailStart); msg != "" {
		return nil, errors.New(msg)
	}
	if lookup(env, HangStart) != "" {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	p, err := r.spawn(r.cfg.Spec.Process, io)
	if err != nil {
		return nil, err
	}
	dieAt(r.cfg, "started")
	return p, nil
}

// Exec implements workload.Runtime.
func (r *Runtime) Exec(_ context.Context, p *specs.Process, io workload.Stdio) (workload.Process, error) {
	return r.spawn(p, io)
}

// Shutdown implements workload.Runtime: like a power button it reaches
// everything, not only the first process.
func (r *Runtime) Shutdown(context.Context) error {
	if lookup(r.cfg.Spec.Process.Env, IgnoreShutdown) == "" {
		r.signalAll(unix.SIGUSR2) // not HUP: whoever runs the tests may ignore that
	}
	return nil
}

// Kill implements workload.Runtime.
func (r *Runtime) Kill(context.Context) error {
	r.mu.Lock()
	r.killed = true
	r.mu.Unlock()
	r.signalAll(unix.SIGKILL)
	return nil
}

// Pause implements workload.Pauser.
func (r *Runtime) Pause(context.Context) error { r.signalAll(unix.SIGSTOP); return nil }

// Resume implements workload.Pauser.
func (r *Runtime) Resume(context.Context) error { r.signalAll(unix.SIGCONT); return nil }

func (r *Runtime) signalAll(sig unix.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.procs {
		_ = unix.Kill(-p.cmd.Process.Pid, sig) // gone already
	}
}

// Inspect implements workload.Inspector.
func (r *Runtime) Inspect() map[string]any { return map[string]any{"fake": true} }

// NetworkStatus implements workload.NetworkReporter.
func (r *Runtime) NetworkStatus() (string, []workload.Port) { return "", r.cfg.Net.Publish }

// Stats implements workload.Runtime.
func (r *Runtime) Stats(context.Context) (workload.Stats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ru unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &ru) // cannot fail with these arguments
	return workload.Stats{
		At: time.Now(), CPUNanoseconds: uint64(ru.Utime.Nano() + ru.Stime.Nano()), MemoryBytes: uint64(ru.Maxrss) << 10,
		MemoryLimitBytes: r.cfg.Res.MemoryBytes, PIDs: uint64(len(r.procs)),
	}, nil
}

// Close implements workload.Runtime.
func (r *Runtime) Close() error {
	dieAt(r.cfg, "close")
	r.signalAll(unix.SIGKILL)
	return nil
}

func (r *Runtime) spawn(p *specs.Process, stdio workload.Stdio) (*process, error) {
	path, err := lookPath(p)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: path, Args: p.Args, Env: p.Env, Dir: p.Cwd, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	pr := &process{rt: r, cmd: cmd, done: make(chan struct{})}
	var after func()
	if p.Terminal {
		after, err = pr.terminal(stdio, p.ConsoleSize)
	} else {
		after, err = pr.pipes(stdio)
	}
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.killed {
		after()
		return nil, workload.ErrNotRunning
	}
	if err := cmd.Start(); err != nil {
		after()
		return nil, startError(p.Args[0], err)
	}
	after()
	r.procs[pr] = struct{}{}
	go pr.reap()
	return pr, nil
}

// process implements workload.Process.
type process struct {
	rt   *Runtime
	cmd  *exec.Cmd
	pty  *os.File // nil: no terminal
	out  sync.WaitGroup
	done chan struct{}
	exit workload.Exit
}

// pipes connects the process by pipes; after closes the process's ends here.
func (p *process) pipes(stdio workload.Stdio) (after func(), err error) {
	var theirs []*os.File
	after = func() {
		for _, f := range theirs {
			f.Close()
		}
	}
	if stdio.In != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		theirs = append(theirs, r)
		p.cmd.Stdin = r
		go func() { // ends with stdio.In, which ends with the instance
			_, _ = io.Copy(w, stdio.In)
			w.Close()
		}()
	}
	for _, o := range []struct {
		to  io.Writer
		set *io.Writer
	}{{stdio.Out, &p.cmd.Stdout}, {stdio.Err, &p.cmd.Stderr}} {
		r, w, err := os.Pipe()
		if err != nil {
			after()
			return nil, err
		}
		theirs = append(theirs, w)
		*o.set = w
		p.copyOut(o.to, r)
	}
	return after, nil
}

// terminal gives the process a terminal of its own.
func (p *process) terminal(stdio workload.Stdio, size *specs.Box) (after func(), err error) {
	ptm, pts, err := OpenPTY()
	if err != nil {
		return nil, err
	}
	p.pty = ptm
	if size != nil {
		_ = p.resize(uint16(size.Width), uint16(size.Height))
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = pts, pts, pts
	p.cmd.SysProcAttr.Setctty = true
	if stdio.In != nil {
		go func() {
			_, _ = io.Copy(ptm, stdio.In)
			_, _ = ptm.Write([]byte{4}) // end of file, as a terminal says it
		}()
	}
	p.copyOut(stdio.Out, ptm)
	return func() { pts.Close() }, nil
}

func (p *process) copyOut(to io.Writer, from *os.File) {
	if to == nil {
		to = io.Discard
	}
	p.out.Go(func() {
		_, _ = io.Copy(to, from) // a terminal ends with EIO
		from.Close()
	})
}

func (p *process) reap() {
	_ = p.cmd.Wait()                                // the state says it all
	_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL) // nothing outlives it, as behind a pid namespace
	p.out.Wait()
	p.rt.mu.Lock()
	delete(p.rt.procs, p)
	p.rt.mu.Unlock()
	ws := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	p.exit = workload.Exit{Code: ws.ExitStatus(), At: time.Now()}
	if ws.Signaled() {
		p.exit.Code = workload.SignalExitCode(int(ws.Signal()))
	}
	close(p.done)
}

// Wait implements workload.Process.
func (p *process) Wait(ctx context.Context) (workload.Exit, error) {
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return workload.Exit{}, context.Cause(ctx)
	}
}

// Signal implements workload.Process.
func (p *process) Signal(ctx context.Context, sig unix.Signal) error {
	if lookup(p.rt.cfg.Spec.Process.Env, IgnoreSignals) != "" {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return p.cmd.Process.Signal(sig)
}

// Resize implements workload.Process.
func (p *process) Resize(_ context.Context, columns, rows uint16) error {
	return p.resize(columns, rows)
}

func (p *process) resize(columns, rows uint16) error {
	if p.pty == nil {
		return fmt.Errorf("%w: the process has no terminal", workload.ErrUnsupported)
	}
	return SetSize(p.pty, columns, rows)
}

func lookPath(p *specs.Process) (string, error) {
	name := p.Args[0]
	if strings.Contains(name, "/") {
		if _, err := os.Stat(name); err != nil {
			return "", startError(name, err)
		}
		return name, nil
	}
	for dir := range strings.SplitSeq(lookup(p.Env, "PATH"), ":") {
		path := dir + "/" + name
		if st, err := os.Stat(path); err == nil && !st.IsDir() {
			return path, nil
		}
	}
	return "", workload.NotFoundError(name)
}

func startError(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return workload.NotFoundError(name)
	}
	return &workload.StartError{Code: workload.ExitNotExecutable, Err: fmt.Errorf("command %q: %w", name, err)}
}

func lookup(env []string, name string) string {
	for _, kv := range env {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v
		}
	}
	return ""
}
