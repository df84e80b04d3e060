package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/handoff"
	"golang.org/x/sys/unix"
)

// settleGrace is how long a new owner may take until the guest's agent talks to
// it; it lies beyond what the runtime grants the agent.
const settleGrace = 4 * time.Minute

// handed says whether the instance goes on in a successor.
type handed struct {
	done     chan struct{} // closed when it does
	answered chan struct{} // closed when who asked for that knows
	once     *sync.Once
}

func newHanded() handed {
	return handed{done: make(chan struct{}), answered: make(chan struct{}), once: &sync.Once{}}
}

func (h *handed) over() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

func errUpgraded(name string) error {
	return fmt.Errorf("%s: %w: ask again", name, control.ErrUpgraded)
}

// Upgrade implements control.Owner.
func (o *owner) Upgrade(ctx context.Context, r control.UpgradeRequest) (json.RawMessage, error) {
	if err := o.answering(); err != nil {
		return nil, err
	}
	u, ok := o.rt.(workload.Upgrader)
	if !ok {
		return nil, fmt.Errorf("%s: upgrade: %w (%s)", o.cfg.Name, workload.ErrUnsupported, o.cfg.Backend)
	}
	release, err := o.still() // it pauses, and nobody else may resume
	if err != nil {
		return nil, err
	}
	defer release()
	if err := o.answering(); err != nil { // since then
		return nil, err
	}
	s, err := o.adopt(r)
	if err != nil {
		return nil, err
	}
	report, err := u.HandOver(ctx, workload.Successor{Link: s.link, Kill: s.kill})
	if err != nil {
		return nil, withKill(err, s.kill())
	}
	close(o.handed.done)
	defer close(o.handed.answered)
	_ = o.srv.socket.Close() // who comes from now on is the successor's
	u.Leave()
	<-o.ended // the first process's output is in the log
	o.out.closeLog()
	o.event(control.EventUpgrade, map[string]string{"program": r.Program, "pid": fmt.Sprint(s.pid)})
	if err := handoff.Tell(s.link, "quiet"); err != nil {
		return nil, fmt.Errorf("%s: the new owner process ended: %w", o.cfg.Name, err)
	}
	said, err := handoff.Hear(s.link, settleGrace)
	if err != nil {
		return nil, fmt.Errorf("%s: the new owner process ended: %w", o.cfg.Name, err)
	}
	if said != "" {
		return nil, fmt.Errorf("%s: the new owner process could not go on: %s", o.cfg.Name, said)
	}
	return report, nil
}

func withKill(err, kerr error) error {
	if kerr != nil {
		return fmt.Errorf("%w (and the new owner process does not end: %w)", err, kerr)
	}
	return err
}

// successor is a process that is to become the owner.
type successor struct {
	link *os.File
	pid  int
	gone chan struct{}
	kill func() error
}

// adopt takes up with the successor that a client has started, and lends it the
// lock and the control socket, which it uses when the instance is its own.
func (o *owner) adopt(r control.UpgradeRequest) (*successor, error) {
	socket, err := duplicate(o.srv.socket)
	if err != nil {
		_ = r.Process.Close()
		return nil, err
	}
	defer socket.Close()
	s := &successor{link: r.Link, pid: r.PID, gone: make(chan struct{})}
	pidfd := int(r.Process.Fd())
	go func() {
		defer r.Process.Close()
		defer close(s.gone)
		for { // a pidfd is readable when its process has ended
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	s.kill = func() error {
		select {
		case <-s.gone:
			return nil
		default:
		}
		if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			select {
			case <-s.gone:
				return nil
			case <-time.After(time.Second):
				return os.NewSyscallError("pidfd_send_signal", err)
			}
		}
		select {
		case <-s.gone:
			return nil
		case <-time.After(10 * time.Second): // in the kernel, in I/O that does not return
			return fmt.Errorf("process %d was killed and is still there", s.pid)
		}
	}
	if err := handoff.Lend(s.link, o.inst.LockFile(), socket); err != nil {
		return nil, withKill(err, s.kill())
	}
	return s, nil
}

// duplicate is l.File, but that the result's Fd leaves the socket, which is
// shared, in its non-blocking mode: an Accept that blocks cannot be ended.
func duplicate(l *net.UnixListener) (*os.File, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	cerr := raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("duplicate the control socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "control"), nil
}

// leave ends this process's part in an instance that goes on elsewhere. What it
// recorded, holds and shares is the successor's.
func (o *owner) leave() {
	for _, p := range o.out.end() {
		p.Fail(errUpgraded(o.cfg.Name))
	}
	<-o.handed.answered
	o.out.drain()
	o.endSessions()
	if err := o.rt.Close(); err != nil {
		o.log.Warn("cleaning up", "err", err)
	}
	o.inst.Unlock() // the successor has it
	o.bus.close()
	o.srv.shutdown()
}
