// Package eventfd is an eventfd(2) on Go's network poller: a goroutine that
// waits on one costs no thread, and a context can wake it. KVM writes such
// descriptors for us (ioeventfd) and reads them (irqfd).
package eventfd

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInterrupted is returned by Wait after Interrupt or Close.
var ErrInterrupted = errors.New("wait on eventfd interrupted")

// EventFD owns one non-blocking, close-on-exec eventfd. Methods may be called
// concurrently; at most one goroutine should Wait.
type EventFD struct {
	f   *os.File
	fd  int
	raw syscall.RawConn

	// Of the one waiter: what take is called back with and answers.
	take  func(fd uintptr) bool
	count uint64
	errno syscall.Errno
}

// New creates an eventfd with count 0. name appears in error messages only.
func New(name string) (*EventFD, error) {
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
// returns ErrInterrupted after Interrupt or Close.
func (e *EventFD) Wait() error {
	if e.raw.Read(e.take) != nil {
		return ErrInterrupted // the deadline, or closed
	}
	if e.errno != 0 {
		return os.NewSyscallError("read eventfd", e.errno)
	}
	return nil
}

// Interrupt makes the current and every later Wait return ErrInterrupted,
// until Rearm. Signals that arrive meanwhile are kept.
func (e *EventFD) Interrupt() {
	_ = e.f.SetReadDeadline(time.Unix(1, 0)) // fails only when closed, which interrupts too
}

// Rearm undoes Interrupt.
func (e *EventFD) Rearm() { _ = e.f.SetReadDeadline(time.Time{}) }

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
func (e *EventFD) Close() error { return e.f.Close() }
