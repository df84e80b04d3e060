package agent

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// entropyBytes is how much entropy Reseed gives.
const entropyBytes = 64

// NewEntropy returns fresh entropy for guestproto.Run.
func NewEntropy() []byte {
	b := make([]byte, entropyBytes)
	_, _ = rand.Read(b) // never fails: crypto/rand
	return b
}

// SignalAll sends a signal to every process of the workload.
func (s *Session) SignalAll(ctx context.Context, sig int) error {
	return s.call(ctx, guestproto.MethodSignal, guestproto.Signal{Signal: sig, All: true}, nil)
}

// Stats returns the guest's figures.
func (s *Session) Stats(ctx context.Context) (guestproto.Stats, error) {
	var st guestproto.Stats
	err := s.call(ctx, guestproto.MethodStats, nil, result(&st))
	return st, err
}

// Ping asks for a sign of life.
func (s *Session) Ping(ctx context.Context) (guestproto.Pong, error) {
	var p guestproto.Pong
	err := s.call(ctx, guestproto.MethodPing, nil, result(&p))
	return p, err
}

// SyncClock sets the guest's wall clock, after a pause or a restore.
func (s *Session) SyncClock(ctx context.Context, now time.Time) error {
	return s.call(ctx, guestproto.MethodSyncClock, guestproto.SyncClock{UnixNano: now.UnixNano()}, nil)
}

// Plug has the agent make the device file of a disk that was plugged in, or remove
// that of one that has gone. An agent that knows nothing of it answers with an
// error.
func (s *Session) Plug(ctx context.Context, p guestproto.Plug) error {
	return s.call(ctx, guestproto.MethodPlug, p, nil)
}

// LimitPIDs holds the workload to n tasks from now on, above 0. An agent that knows
// nothing of it answers with an error.
func (s *Session) LimitPIDs(ctx context.Context, n int64) error {
	return s.call(ctx, guestproto.MethodLimit, guestproto.Limit{PIDs: n}, nil)
}

// Beat has the agent begin to measure for how long the guest does not run, or end
// that, and returns the longest time of that kind since it began. An agent that
// knows nothing of it answers with an error.
func (s *Session) Beat(ctx context.Context, on bool) (time.Duration, error) {
	var g guestproto.Gap
	err := s.call(ctx, guestproto.MethodBeat, guestproto.Beat{On: on}, result(&g))
	return time.Duration(g.LongestNs), err
}

// Reseed gives the guest's random generator fresh entropy. A machine that was
// copied or restored needs it before it runs user code again.
func (s *Session) Reseed(ctx context.Context) error {
	return s.call(ctx, guestproto.MethodReseed, guestproto.Reseed{Entropy: NewEntropy()}, nil)
}

// Identify makes a guest that was copied another machine than its original, with
// fresh entropy and the time of now. The workload runs meanwhile.
func (s *Session) Identify(ctx context.Context, hostname string, n *guestproto.Network) error {
	return s.call(ctx, guestproto.MethodIdentify, guestproto.Identity{
		Hostname: hostname, Network: n, Clock: time.Now().UnixNano(), Entropy: NewEntropy(),
	}, nil)
}

// Freeze flushes the guest's disks and blocks writes to them until Thaw.
func (s *Session) Freeze(ctx context.Context) error {
	return s.call(ctx, guestproto.MethodFreeze, nil, nil)
}

// Thaw undoes Freeze.
func (s *Session) Thaw(ctx context.Context) error {
	return s.call(ctx, guestproto.MethodThaw, nil, nil)
}

// Suspend stops every process of the workload and flushes what they have written; the
// agent goes on. An agent of an earlier build knows nothing of it: ErrUnknown.
func (s *Session) Suspend(ctx context.Context) error {
	return s.call(ctx, guestproto.MethodSuspend, nil, nil)
}

// Continue undoes Suspend.
func (s *Session) Continue(ctx context.Context) error {
	return s.call(ctx, guestproto.MethodContinue, nil, nil)
}

// Shutdown asks the guest to end: sig (0 means SIGTERM) to the first process,
// SIGKILL after timeout, then power off. It returns when the guest has begun.
func (s *Session) Shutdown(ctx context.Context, sig int, timeout time.Duration) error {
	return s.call(ctx, guestproto.MethodShutdown, guestproto.Shutdown{Signal: sig, TimeoutMs: timeout.Milliseconds()}, nil)
}

// Top lists the workload's processes.
func (s *Session) Top(ctx context.Context) (guestproto.Table, error) {
	var t guestproto.Table
	return t, s.call(ctx, guestproto.MethodTop, nil, result(&t))
}
