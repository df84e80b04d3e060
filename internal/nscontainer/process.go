package nscontainer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// process is a process of the container: a child of this one.
type process struct {
	c     *Container
	pid   int
	pidfd *os.File
	streams

	ended chan struct{} // it was reaped
	done  chan struct{} // and its output was written; exit is set
	exit  workload.Exit
}

// adopt takes over what the runtime has made.
func (p *process) adopt(made *container.Proc) error {
	defer made.FD.Close()
	p.pid = made.PID
	// On the poller, so that a waiting process costs no thread.
	fd, err := unix.FcntlInt(made.FD.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	p.pidfd = os.NewFile(uintptr(fd), "pidfd")
	return p.receiveTerminal()
}

// run begins to carry its streams, and waits for its end.
func (p *process) run() {
	p.start()
	go p.reap()
}

func (p *process) reap() {
	ws, err := p.wait4()
	if err != nil { // cannot be: it is our child
		p.c.log.Error("waiting for a process", "pid", p.pid, "err", err)
	}
	close(p.ended)
	p.exit = workload.Exit{Code: ws.ExitStatus(), At: time.Now()}
	if ws.Signaled() {
		p.exit.Code = workload.SignalExitCode(int(ws.Signal()))
		p.exit.OOM = ws.Signal() == unix.SIGKILL && p.c.newOOM()
	}
	p.finish()
	_ = p.pidfd.Close()
	close(p.done)
}

// wait4 reaps the process when it has ended.
func (p *process) wait4() (ws unix.WaitStatus, err error) {
	rc, err := p.pidfd.SyscallConn()
	if err != nil {
		return ws, err
	}
	rerr := rc.Read(func(uintptr) bool {
		var n int
		for {
			if n, err = unix.Wait4(p.pid, &ws, unix.WNOHANG, nil); !errors.Is(err, unix.EINTR) {
				return err != nil || n != 0
			}
		}
	})
	return ws, errors.Join(err, rerr)
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
func (p *process) Signal(_ context.Context, sig unix.Signal) error {
	select {
	case <-p.ended:
		return workload.ErrNotRunning
	default:
	}
	if err := p.send(sig); err != nil {
		return fmt.Errorf("signal %d: %w", sig, err)
	}
	return nil
}

// send signals by the descriptor, which never means another process.
func (p *process) send(sig unix.Signal) error {
	rc, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	cerr := rc.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if errors.Is(cerr, os.ErrClosed) {
		return unix.ESRCH
	}
	return errors.Join(cerr, err)
}

// Resize implements workload.Process.
func (p *process) Resize(_ context.Context, columns, rows uint16) error {
	if p.master == nil {
		return fmt.Errorf("%w: the process has no terminal", workload.ErrUnsupported)
	}
	rc, err := p.master.SyscallConn()
	if err != nil {
		return err
	}
	cerr := rc.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	return errors.Join(cerr, err)
}

// startError gives a program that could not be started the exit code that users
// of containers know. The words come out of the namespaces as text.
func startError(err error) error {
	text := err.Error()
	i := strings.Index(text, `exec: "`)
	if i < 0 {
		if strings.HasPrefix(text, "process.cwd") {
			return &workload.StartError{Code: workload.ExitNotFound, Err: err}
		}
		return err
	}
	const notFound = "executable file not found in $PATH"
	code := workload.ExitNotExecutable
	if before, _, ok := strings.Cut(text, notFound); ok {
		text = before + notFound // which says it all
		code = workload.ExitNotFound
	} else if strings.HasSuffix(text, unix.ENOENT.Error()) || strings.HasSuffix(text, unix.ENOTDIR.Error()) {
		code = workload.ExitNotFound
	}
	return &workload.StartError{Code: code, Err: errors.New(text[i:])}
}
