package virtio

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/eventfd"
)

// run is one stretch of a device's activity, from Activate to the join of its
// goroutines at pause or reset.
type run struct {
	core   *Core
	ctx    context.Context
	cancel context.CancelFunc
	env    *Env
	ended  map[int]worker // by queue; constant once workers run
	done   chan struct{}  // closed when all was joined

	mu     sync.Mutex // guards closed and the first Add of wg
	closed bool
	wg     sync.WaitGroup
}

// worker is the goroutine of one queue.
type worker struct {
	cancel context.CancelFunc // ends its ctx, for when it is joined alone
	ended  chan struct{}      // closed when it returned
}

// activate is DRIVER_OK. Core.mu is held.
func (c *Core) activate() {
	c.metrics.Activations.Add(1)
	for _, q := range c.queues {
		if !q.state.Enabled {
			continue
		}
		if err := q.prepare(c.mem, c.driver); err != nil {
			c.fault(err)
			return
		}
	}
	c.active = true
	if c.opts.Activated != nil {
		c.opts.Activated()
	}
	if !c.paused {
		c.start()
	}
}

func (c *Core) deactivate() {
	if c.active && c.opts.Deactivated != nil {
		c.opts.Deactivated()
	}
	c.active = false
}

// start makes a run: it activates the device and starts the workers, each of
// which serves its queue once before it waits. Core.mu is held.
func (c *Core) start() {
	r := &run{core: c, ended: map[int]worker{}, done: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.env = &Env{Mem: c.mem, Queues: c.queues, Features: c.driver, Log: c.log, run: r}
	c.run = r
	for _, q := range c.queues {
		q.stop.Store(false)
		q.kick.Rearm()
	}
	c.cfgMu.Lock()
	err := c.dev.Activate(r.ctx, r.env)
	c.cfgMu.Unlock()
	if err != nil {
		c.fault(fmt.Errorf("activate: %w", err))
		r.halt()
		return
	}
	for _, q := range c.queues {
		serve := q.state.Enabled && !c.taken(q)
		if err := q.kick.Watch(serve); err != nil {
			r.halt()
			c.fail(fmt.Errorf("virtio device %d queue %d: %w", c.info.ID, q.index, err))
			return
		}
		if serve {
			ctx, cancel := context.WithCancel(r.ctx)
			w := worker{cancel, make(chan struct{})}
			r.ended[q.index] = w
			r.launch(fmt.Sprintf("queue %d", q.index), func(context.Context) error {
				defer close(w.ended)
				err := errors.Join(r.serve(ctx, q), r.drain(q))
				if ctx.Err() != nil && !errors.Is(err, ErrGuest) {
					return nil // the end looks like a failure to some
				}
				return err
			})
		}
	}
}

// serve is the worker of q.
func (r *run) serve(ctx context.Context, q *Queue) error {
	for {
		q.drained = false
		err := r.core.dev.HandleQueue(ctx, q)
		if ferr := q.Flush(); ferr != nil { // also what was pushed before an error
			err = errors.Join(err, ferr)
		}
		if err != nil {
			return err // not counted: whoever waits for it looks for the fault
		}
		q.runs.Add(1)
		if q.stop.Load() || ctx.Err() != nil {
			return nil
		}
		if more, err := q.unmute(); err != nil {
			return err
		} else if more {
			continue
		}
		if err := q.kick.Wait(); errors.Is(err, eventfd.ErrInterrupted) {
			return nil // the worker is wanted back
		} else if err != nil {
			return err
		}
		q.metrics.Kicks.Add(1)
	}
}

// drain has the device give back what it kept of q.
func (r *run) drain(q *Queue) error {
	d, ok := r.core.dev.(Drainer)
	if !ok {
		return nil
	}
	return errors.Join(d.DrainQueue(q), q.Flush())
}

// launch runs fn on a goroutine that the join waits for. It does nothing when
// the join has begun.
func (r *run) launch(name string, fn func(context.Context) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.wg.Go(func() {
		defer r.recovered(name)
		debug.SetPanicOnFault(true) // of lent memory, whose file somebody has shrunk
		if err := fn(r.ctx); err != nil {
			r.failed(name, err)
		}
	})
}

// spawn is Env.Go.
func (r *run) spawn(name string, fn func(context.Context) error) { r.launch(name, fn) }

// failed sorts an error by whose fault it is.
func (r *run) failed(name string, err error) {
	switch {
	case errors.Is(err, ErrGuest):
		r.core.fault(fmt.Errorf("%s: %w", name, err))
		r.halt()
	case r.ctx.Err() != nil: // the end of the run looks like a failure to some
	default:
		r.halt()
		r.core.fail(fmt.Errorf("virtio device %d: %s: %w", r.core.info.ID, name, err))
	}
}

// recovered is the one place where a panic is caught: it fails the machine, not
// the process, which may have state to save. The error of an access to memory that
// is not there wraps EFAULT, as KVM's of a guest's access does.
func (r *run) recovered(name string) {
	p := recover()
	if p == nil {
		return
	}
	r.core.log.Error("panic in a device", "dev", r.core.info.ID, "where", name, "panic", p, "stack", string(debug.Stack()))
	r.halt()
	err := fmt.Errorf("%w: device %d, %s: %v", ErrPanic, r.core.info.ID, name, p)
	if _, fault := p.(interface{ Addr() uintptr }); fault {
		err = fmt.Errorf("%w: %w", err, unix.EFAULT)
	}
	r.core.fail(err)
}

// halt tells every goroutine of the run to end; it does not wait. r may be nil.
func (r *run) halt() {
	if r == nil {
		return
	}
	for _, q := range r.core.queues {
		q.stop.Store(true)
		q.kick.Interrupt()
	}
	r.cancel()
}

// joinQueue ends the worker of one queue. Core.mu is held.
func (r *run) joinQueue(q *Queue) {
	w, ok := r.ended[q.index]
	if !ok {
		return
	}
	q.stop.Store(true)
	q.kick.Interrupt()
	w.cancel() // it may wait for its host side
	<-w.ended
}

// join ends the current run, if there is one. When ctx ends first it returns
// its error, and the run goes on ending. Core.mu is held.
func (c *Core) join(ctx context.Context) error {
	r := c.run
	if r == nil {
		return nil
	}
	r.halt()
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.mu.Unlock()
	if first {
		go func() {
			r.wg.Wait()
			close(r.done)
		}()
	}
	select {
	case <-r.done:
		c.run = nil
		return nil
	case <-ctx.Done():
		select {
		case <-r.done: // both: what is done counts
			c.run = nil
			return nil
		default:
		}
		return fmt.Errorf("virtio device %d: workers did not stop in time: %w", c.info.ID, context.Cause(ctx))
	}
}
