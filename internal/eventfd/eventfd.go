// Package eventfd is an eventfd(2) on Go's network poller: a goroutine that
// waits on one costs no thread, and a context can wake it. KVM writes such
// descriptors for us (ioeventfd) and reads them (irqfd).
package eventfd

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hvctl/hvctl/internal/polling"
	"golang.org/x/sys/unix"
)

// ErrInterrupted is returned by Wait after Interrupt or Close.
var ErrInterrupted = errors.New("wait on eventfd interrupted")

// EventFD owns one non-blocking, close-on-exec eventfd. Methods may be called
// concurrently, but where they say otherwise; at most one goroutine should Wait.
type EventFD struct {
	f   *os.File
	fd  int
	raw syscall.RawConn

	lent    bool                    // made by NewUnwatched
	watched atomic.Pointer[watched] // nil: the poller does not know the eventfd

	// Of the one waiter: what take is called back with and answers.
	take  func(fd uintptr) bool
	count uint64
	errno syscall.Errno
}

// watched is the eventfd as the poller knows it.
type watched struct {
	f   *os.File
	raw syscall.RawConn
}

// New creates an eventfd with count 0. name appears in error messages only.
func New(name string) (*EventFD, error) {
	e, err := create(name)
	if err == nil {
		e.watched.Store(&watched{e.f, e.raw})
	}
	return e, err
}

// NewUnwatched is New, but that signals wake no thread of this process before
// Watch(true).
func NewUnwatched(name string) (*EventFD, error) {
	e, err := create(name)
	if err != nil {
		return nil, err
	}
	q, err := polling.Off(e.f)
	if err = errors.Join(err, e.f.Close()); err != nil {
		return nil, err
	}
	e.f, e.fd, e.lent = q, int(q.Fd()), true
	e.raw, err = q.SyscallConn()
	return e, err
}

func create(name string) (*EventFD, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	e := &EventFD{f: os.NewFile(uintptr(fd), name), fd: fd}
	if e.raw, err = e.f.SyscallConn(); err != nil {
		return nil, errors.Join(err, e.f.Close())
	}
	e.take = func(fd uintptr) bool {
		e.count, e.errno = read(fd)
		return e.errno != unix.EAGAIN
	}
	return e, nil
}

// Watch says of an eventfd of NewUnwatched whether signals wake a thread of this
// process. While only the kernel waits for them (vhost has the queue) they would wake
// it for nothing. Wait returns ErrInterrupted meanwhile; signals are kept either way.
// It does not overlap Wait, Until and Close, and does nothing to an eventfd of New.
func (e *EventFD) Watch(on bool) error {
	w := e.watched.Load()
	if !e.lent || on == (w != nil) {
		return nil
	}
	if !on {
		e.watched.Store(nil)
		return w.f.Close()
	}
	f, err := polling.On(e.f)
	if err != nil {
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	e.watched.Store(&watched{f, raw})
	return nil
}

// FD returns the descriptor for ioctls that register it (KVM_IRQFD,
// KVM_IOEVENTFD, VHOST_SET_VRING_KICK). It stays owned by e: the caller keeps
// e alive for as long as the kernel uses the number.
func (e *EventFD) FD() int { return e.fd }

// Signal adds one to the count; it never blocks. After Close it does nothing.
func (e *EventFD) Signal() error {
	var errno syscall.Errno
	if e.raw.Control(func(fd uintptr) { errno = signal(fd) }) != nil {
		return nil // closed: there is no other reason
	}
	if errno != 0 && errno != unix.EAGAIN { // EAGAIN: the count is as high as it gets
		return os.NewSyscallError("write eventfd", errno)
	}
	return nil
}

// Wait blocks until the count is not zero, resets it to zero and returns. It
// returns ErrInterrupted after Interrupt or Close, and while nothing is watched.
func (e *EventFD) Wait() error {
	w := e.watched.Load()
	if w == nil || w.raw.Read(e.take) != nil {
		return ErrInterrupted // the deadline, or closed
	}
	if e.errno != 0 {
		return os.NewSyscallError("read eventfd", e.errno)
	}
	return nil
}

// Interrupt makes the current and every later Wait return ErrInterrupted,
// until Rearm. Signals that arrive meanwhile are kept.
func (e *EventFD) Interrupt() { e.deadline(time.Unix(1, 0)) }

// Rearm undoes Interrupt.
func (e *EventFD) Rearm() { e.deadline(time.Time{}) }

func (e *EventFD) deadline(t time.Time) {
	if w := e.watched.Load(); w != nil {
		_ = w.f.SetReadDeadline(t) // fails only when closed, which interrupts too
	}
}

// Until undoes Interrupt and makes every Wait return ErrInterrupted once ctx has
// ended. Call stop when there will be no more Waits for ctx: after that ctx no
// longer has an effect, so that the next Until is not undone by the last one.
func (e *EventFD) Until(ctx context.Context) (stop func()) {
	e.Rearm()
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		e.Interrupt()
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

// Close releases the descriptor and wakes a waiter.
func (e *EventFD) Close() error {
	err := e.f.Close()
	if w := e.watched.Load(); e.lent && w != nil {
		err = errors.Join(err, w.f.Close())
	}
	return err
}
