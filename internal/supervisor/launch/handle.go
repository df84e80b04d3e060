package launch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// Handle drives one instance from outside. It implements workload.Instance.
type Handle struct {
	*instance.Instance
	*control.Client
	Backend workload.Backend // for Start; may be nil otherwise
}

// NewHandle makes the handle of i.
func NewHandle(i *instance.Instance, b workload.Backend) *Handle {
	h := &Handle{Instance: i, Backend: b}
	h.Client = &control.Client{Dial: i.Dial, Ended: h.ended}
	return h
}

// endGrace is how long an owner that closes its connections may take to end.
const endGrace = 5 * time.Second

// ended says whether the owner closed a connection because its instance is
// over. An owner on its way out takes connections it never answers.
func (h *Handle) ended(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, endGrace)
	defer cancel()
	return h.AwaitChange(ctx, func(st workload.State) bool {
		return st.Status == workload.Exited || st.Status == workload.Dead
	}) == nil
}

// State implements workload.Instance.
func (h *Handle) State(context.Context) (workload.State, error) { return h.Instance.State() }

// Start implements workload.Instance: a created instance runs, detached.
func (h *Handle) Start(ctx context.Context) error {
	_, err := h.StartWith(ctx, Options{})
	return err
}

// StartWith is Start with options.
func (h *Handle) StartWith(ctx context.Context, o Options) (*Running, error) {
	st, err := h.Instance.State()
	if err != nil {
		return nil, err
	}
	if st.Status != workload.Created {
		return nil, fmt.Errorf("%s is %s; only a created instance can be started", h.Name(), st.Status)
	}
	if h.LockFile() == nil {
		if err := h.TryLock(); err != nil {
			return nil, err
		}
	}
	return Start(ctx, h.Backend, h.Instance, o)
}

// Signal implements workload.Instance.
func (h *Handle) Signal(ctx context.Context, sig unix.Signal) error {
	return h.named(h.Client.Signal(ctx, "", sig))
}

// Stats implements workload.Instance.
func (h *Handle) Stats(ctx context.Context) (workload.Stats, error) {
	s, err := h.Client.Stats(ctx)
	return s, h.named(err)
}

// Wait implements workload.Instance. Of an instance whose owner was killed it
// says so in Exit.Err, with code 137. It waits for a created instance to be
// started.
func (h *Handle) Wait(ctx context.Context) (workload.Exit, error) {
	for {
		e, err := h.Client.Wait(ctx)
		if err == nil {
			h.Bury(ctx)
		}
		if err == nil || ctx.Err() != nil {
			return e, err
		}
		if !errors.Is(err, workload.ErrNotRunning) && !errors.Is(err, control.ErrGone) {
			return e, err
		}
		if err := h.settled(ctx); err != nil {
			return e, err
		}
		st, err := h.Instance.State()
		switch {
		case err != nil:
			return e, err
		case st.Exit != nil:
			h.Bury(ctx)
			return *st.Exit, nil
		case st.Status == workload.Dead:
			return workload.Exit{Code: 137, Err: "its owner process was killed", At: time.Now()}, nil
		}
	}
}

// Stop is Client.Stop, and takes away what the owner may not.
func (h *Handle) Stop(ctx context.Context, r control.StopRequest) (workload.Exit, error) {
	e, err := h.Client.Stop(ctx, r)
	if err == nil {
		h.Bury(ctx)
	}
	return e, err
}

// settled returns when Wait's next attempt may end differently: a created
// instance was started, or one whose owner does not answer has none any more.
func (h *Handle) settled(ctx context.Context) error {
	st, err := h.Instance.State()
	if err != nil {
		return nil // Wait asks again and reports it
	}
	created := st.Status == workload.Created
	return h.AwaitChange(ctx, func(st workload.State) bool {
		if created {
			return st.Status != workload.Created
		}
		return st.Status == workload.Exited || st.Status == workload.Dead
	})
}

// Delete implements workload.Instance. It fails with instance.ErrLocked while
// the instance lives.
func (h *Handle) Delete(ctx context.Context) error {
	if err := h.TryLock(); err != nil {
		return err
	}
	return h.remove(ctx)
}

// remove deletes an instance that is locked by us.
func (h *Handle) remove(ctx context.Context) error {
	if err := dropGroup(ctx, h.Instance); err != nil {
		h.Unlock()
		return err
	}
	pruneParent()
	return h.Remove()
}

// ForceDelete kills the instance first, and its owner when that does not
// answer.
func (h *Handle) ForceDelete(ctx context.Context) error {
	err := h.TryLock()
	for deadline := time.Now().Add(forceGrace); errors.Is(err, instance.ErrLocked); err = h.TryLock() {
		if err := h.kill(ctx); err != nil {
			return err
		}
		// Whoever holds it may be no owner yet, or remove it, too.
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(forceLook):
		}
		if time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		if _, serr := h.Instance.State(); errors.Is(serr, workload.ErrNotFound) {
			return nil // it removed itself
		}
		return err
	}
	return h.remove(ctx)
}

// forceGrace is how long another command may take to start or remove an instance that
// is to be removed, and forceLook how often it is looked whether it has.
const (
	forceGrace = 15 * time.Second
	forceLook  = 10 * time.Millisecond
)

// killGrace is how long an owner may take to end its instance.
const killGrace = 5 * time.Second

func (h *Handle) kill(ctx context.Context) error {
	kctx, cancel := context.WithTimeout(ctx, killGrace)
	defer cancel()
	if err := h.Client.Kill(kctx); err == nil {
		if _, err := h.Client.Wait(kctx); err == nil {
			return nil
		}
	}
	st, err := h.Instance.State()
	if err != nil || st.PID == 0 {
		return nil // gone meanwhile
	}
	if err := h.KillOwner(st.PID); err != nil {
		return fmt.Errorf("%s: its owner does not answer: %w", h.Name(), err)
	}
	return h.Instance.AwaitChange(ctx, func(st workload.State) bool { return st.PID == 0 })
}

// named says which instance an error is about.
func (h *Handle) named(err error) error {
	if errors.Is(err, workload.ErrNotRunning) {
		return fmt.Errorf("%s: %w", h.Name(), workload.ErrNotRunning)
	}
	return err
}
