package net

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/vhostring"
)

// Kernel is a pair's side in the host's kernel; *vhost.Net is it. It serves ring 0
// to the guest and ring 1 from it, from a tap.
type Kernel interface {
	vhostring.Kernel
	SetBackend(queue, tap int) error
}

// errNoTap means a backend that the kernel cannot serve from.
var errNoTap = errors.New("vhost-net serves from a tap, not from a socket")

// inKernel is the part of a pair that the kernel serves. The eventfds outlive a
// pause, so that no signal is lost in it, and end with the driver.
type inKernel struct {
	k      Kernel
	tap    int
	calls  [2]*eventfd.EventFD // nil until there is a driver
	fault  *eventfd.EventFD
	broken error // the rings were not had back: no driver may go on

	mu      sync.Mutex // guards what follows, and SetBackend
	serving bool       // the kernel has the rings
}

// tapOf is the descriptor of the tap that b is.
func tapOf(b Backend) (int, error) {
	f, ok := b.(*file)
	if !ok || !f.tap {
		return -1, errNoTap
	}
	tap := -1
	err := f.control(func(fd int) error { tap = fd; return nil })
	return tap, err
}

// KernelServes tells whether the kernel serves the queues, or could (ServeHere).
func (d *Device) KernelServes() bool { return len(d.kernel) > 0 }

// ServeHere has this process serve the queues from the next Activate on, or the
// kernel again, where it can. It does nothing to a device without vhost. The caller
// has stopped the device.
func (d *Device) ServeHere(here bool) { d.here.Store(here) }

// TakesQueue implements virtio.RingTaker: with vhost the kernel has every queue but
// the control queue.
func (d *Device) TakesQueue(i int) bool {
	if len(d.kernel) == 0 || d.here.Load() {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	pairs := 1 // §5.1.2
	if d.mq {
		pairs = len(d.kernel)
	}
	return i < 2*pairs
}

// handOver gives the pairs that the driver has set up to the kernel. A pair that it
// has set up by half is nobody's.
func (d *Device) handOver(env *virtio.Env) error {
	for i, p := range d.kernel {
		if !d.TakesQueue(2*i) || !env.Queues[2*i].Enabled() || !env.Queues[2*i+1].Enabled() {
			continue
		}
		if p.broken != nil {
			return p.broken
		}
		if err := d.o.Backends[i].(*file).unwatch(); err != nil { // tapOf saw that it is one
			return err
		}
		if err := p.start(env, 2*i, &d.up); err != nil {
			return errors.Join(err, p.stop(env))
		}
		for q, call := range p.calls {
			env.Forward(2*i+q, call)
		}
		env.Go(fmt.Sprintf("vhost of pair %d", i), func(ctx context.Context) error { return p.supervise(ctx, env, 2*i) })
		for q := range p.calls {
			env.Kick(2*i + q) // for what was added before the kernel looked
		}
	}
	return nil
}

// start has the kernel serve the pair, when the link is up.
func (p *inKernel) start(env *virtio.Env, first int, up *atomic.Bool) error {
	for _, f := range []**eventfd.EventFD{&p.calls[0], &p.calls[1], &p.fault} {
		if *f != nil {
			continue
		}
		var err error
		if *f, err = eventfd.New("vhost-net"); err != nil {
			return err
		}
	}
	if err := vhostring.Prepare(p.k, env); err != nil {
		return err
	}
	for q, call := range p.calls {
		v, err := vhostring.Vring(env, env.Queues[first+q], q)
		if err != nil {
			return err
		}
		v.Call, v.Err = call.FD(), p.fault.FD()
		if err := p.k.SetVring(v); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serving = true
	if !up.Load() {
		return nil
	}
	return p.connect(p.tap)
}

// connect has the kernel pass frames to tap and from it; -1 is none. mu is held.
func (p *inKernel) connect(tap int) error {
	return errors.Join(p.k.SetBackend(0, tap), p.k.SetBackend(1, tap))
}

// plug follows the link. What came while it was down is lost, as on a cable that is
// out.
func (p *inKernel) plug(up bool, b Backend) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.serving:
		return nil
	case !up:
		return p.connect(-1)
	}
	discard(b)
	return p.connect(p.tap)
}

// supervise waits until the rings are wanted back, or the kernel finds one broken,
// and takes them back.
func (p *inKernel) supervise(ctx context.Context, env *virtio.Env, first int) error {
	defer p.fault.Until(ctx)()
	err := p.fault.Wait()
	switch {
	case errors.Is(err, eventfd.ErrInterrupted):
		err = nil
	case err == nil:
		err = virtio.GuestErrorf("the kernel finds a ring or a buffer broken")
	}
	return errors.Join(err, p.takeBack(env, first))
}

func (p *inKernel) takeBack(env *virtio.Env, first int) error {
	err := p.stop(env)
	for q := range p.calls {
		if err == nil {
			err = vhostring.TakeBack(p.k, env.Queues[first+q], q)
		}
	}
	if err != nil {
		p.broken = fmt.Errorf("rings not had back from the kernel: %w", err)
	}
	return p.broken
}

// stop ends the kernel's work. What it has written counts as all of memory.
func (p *inKernel) stop(env *virtio.Env) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serving = false
	err := p.connect(-1)
	env.Mem.MarkAllDirty() // the kernel keeps no log of the pages it writes
	return err
}

// unwire forgets the driver.
func (p *inKernel) unwire() (err error) {
	for _, f := range []**eventfd.EventFD{&p.calls[0], &p.calls[1], &p.fault} {
		if *f != nil {
			err = errors.Join(err, (*f).Close())
			*f = nil
		}
	}
	return err
}
