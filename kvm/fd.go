package kvm

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// fd owns one descriptor and, optionally, what hangs on it. Calls in flight
// hold a reference, so Close never pulls the number from under an ioctl: the
// last one out releases it.
type fd struct {
	n    int
	name string
	fini func() // unmaps what was mapped through the descriptor; may be nil

	// state is the number of calls under way, plus fdClosed once Close was
	// called.
	state atomic.Int64
	// untrack undoes trackFD; nil outside tests.
	untrack func()
}

const fdClosed = 1 << 62

// trackFD, when set by a test, is told of every descriptor that this package
// opens and returns what to call when it is released.
var trackFD func(name string) (untrack func())

// init takes ownership of the descriptor n.
func (f *fd) init(n int, name string) {
	f.n, f.name = n, name
	if trackFD != nil {
		f.untrack = trackFD(name)
	}
}

// acquire returns the descriptor's number, valid until release.
func (f *fd) acquire() (int, error) {
	for {
		s := f.state.Load()
		if s&fdClosed != 0 {
			return -1, fmt.Errorf("%s: %w", f.name, os.ErrClosed)
		}
		if f.state.CompareAndSwap(s, s+1) {
			return f.n, nil
		}
	}
}

func (f *fd) release() {
	if f.state.Add(-1) == fdClosed {
		_ = f.destroy() // Close has returned already; KVM descriptors do not fail to close
	}
}

func (f *fd) close() error {
	for {
		s := f.state.Load()
		if s&fdClosed != 0 {
			return nil
		}
		if f.state.CompareAndSwap(s, s|fdClosed) {
			if s == 0 {
				return f.destroy()
			}
			return nil
		}
	}
}

func (f *fd) destroy() error {
	if f.fini != nil {
		f.fini()
	}
	if f.untrack != nil {
		f.untrack()
	}
	return os.NewSyscallError("close", unix.Close(f.n))
}
