package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// Options says how to start an owner.
type Options struct {
	// Attach makes the caller the first client: no byte of output is missed.
	Attach bool
	// StdinOnce closes the process's standard input when that client goes
	// away without detaching.
	StdinOnce bool
	// Group is where the owner lives if its backend has no group for it, which
	// that of a container does not; nil: where the caller is.
	Group *cgroup.Group
	// LogLevel is what the owner logs from (slog's words); empty: INFO.
	LogLevel string
}

// Running is an owner that was started.
type Running struct {
	Instance *instance.Instance
	Stream   *control.Stream // with Options.Attach
	proc     *os.Process
}

// abortGrace is how long an owner may take to clean up when its start is
// called off.
const abortGrace = 10 * time.Second

// Start starts the owner of i, whose lock the caller holds (Store.Create, or
// Instance.TryLock). The lock goes to the owner. Start returns when the first
// process runs; an error that is a *workload.StartError has its exit code. A
// cancelled ctx calls the start off and cleans up.
func Start(ctx context.Context, b workload.Backend, i *instance.Instance, o Options) (*Running, error) {
	argv, err := b.Command()
	if err != nil {
		return nil, err
	}
	group, err := newGroup(b, i)
	if err != nil {
		return nil, err
	}
	if group == nil {
		group = o.Group
	}
	r, err := start(ctx, argv, detached(b, i.Config(), group), i, o)
	if err == nil {
		return r, nil
	}
	if i.LockFile() == nil { // an owner was there; if it still is, it cleans up
		if i.TryLock() != nil {
			return nil, err
		}
		defer func() {
			i.Unlock()
			_ = i.SweepRemoved() // or the next command does
		}()
	}
	if derr := dropGroup(context.WithoutCancel(ctx), i); derr != nil {
		err = fmt.Errorf("%w (and %w)", err, derr)
	}
	return nil, err
}

func start(ctx context.Context, argv []string, at place, i *instance.Instance, o Options) (*Running, error) {
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer readyR.Close()
	h := instance.Handover{Ready: 3, Lock: 4, StdinOnce: o.StdinOnce}
	files := []*os.File{nil, nil, nil, readyW, i.LockFile()}
	var ours *os.File
	if o.Attach {
		var theirs *os.File
		if ours, theirs, err = socketPair(); err != nil {
			readyW.Close()
			return nil, err
		}
		defer ours.Close()
		h.Attach = len(files)
		files = append(files, theirs)
	}
	proc, err := spawn(at, append(argv, i.Dir()), i.Dir(), o.LogLevel, h, files)
	for _, f := range files[3:] { // the lock, too: from now on it is the owner's alone
		if f != i.LockFile() {
			f.Close()
		}
	}
	i.Unlock()
	if err != nil {
		return nil, err
	}
	r := &Running{Instance: i, proc: proc}
	if err := r.ready(ctx, readyR); err != nil {
		return nil, err
	}
	if ours != nil {
		conn, err := net.FileConn(ours)
		if err != nil {
			return nil, err
		}
		r.Stream = control.NewStream(conn, nil)
	}
	return r, nil
}

// spawn starts argv at a place. files[0:3] are set here.
func spawn(at place, argv []string, dir, level string, h instance.Handover, files []*os.File) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	// The directory may be another user's by now: an earlier owner's.
	log, err := os.OpenFile(filepath.Join(dir, instance.OwnerLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// Nothing of our environment but this reaches the owner, and nothing of
	// that the instance.
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), h.Encode()}
	if level != "" {
		env = append(env, instance.LogLevelEnv+"="+level)
	}
	files[0], files[1], files[2] = null, log, log
	p, err := at.start(argv, &os.ProcAttr{Dir: "/", Env: env, Files: files})
	if err != nil {
		return nil, fmt.Errorf("owner process: %w", err)
	}
	return p, nil
}

// ready waits for the owner's one line.
func (r *Running) ready(ctx context.Context, f *os.File) error {
	stop := context.AfterFunc(ctx, func() { r.abort() })
	line, err := bufio.NewReaderSize(io.LimitReader(f, 64<<10), 512).ReadBytes('\n')
	if !stop() {
		_, _ = r.proc.Wait()
		return context.Cause(ctx)
	}
	if err != nil {
		r.WaitOwner(abortGrace)
		return fmt.Errorf("the owner process ended before the instance ran: %s", r.lastWords())
	}
	var v instance.Ready
	if err := json.Unmarshal(line, &v); err != nil {
		r.abort()
		return fmt.Errorf("owner process: answer not understood: %w", err)
	}
	if v.Error != "" {
		r.WaitOwner(abortGrace)
		return &workload.StartError{Code: v.Code, Err: errors.New(v.Error)}
	}
	return nil
}

// abort asks the owner to end, and makes it.
func (r *Running) abort() {
	_ = r.proc.Signal(unix.SIGTERM)
	time.AfterFunc(abortGrace, func() { _ = r.proc.Kill() })
}

// lastWords is the end of the owner's log.
func (r *Running) lastWords() string {
	b, err := os.ReadFile(filepath.Join(r.Instance.Dir(), instance.OwnerLog))
	if err != nil || len(b) == 0 {
		return "it left no message"
	}
	if len(b) > 2048 {
		b = b[len(b)-2048:]
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, l := range lines { // a panic says why in its first line
		if strings.HasPrefix(l, "panic:") || strings.HasPrefix(l, "fatal error:") {
			return l
		}
	}
	return lines[len(lines)-1]
}

// PID is the owner's process ID.
func (r *Running) PID() int { return r.proc.Pid }

// WaitOwner waits until the owner process, our child, is gone, at most d.
func (r *Running) WaitOwner(d time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.proc.Wait() // how it ended is in the instance's state
	}()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "attach"), os.NewFile(uintptr(fds[1]), "attach"), nil
}
