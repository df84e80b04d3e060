package vsock

import (
	"context"
	"errors"
	"fmt"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/vhostring"
)

// Activate hands the driver's rings to the kernel. A driver that has set up only
// one of them gets no connections.
func (d *Vhost) Activate(_ context.Context, env *virtio.Env) error {
	if d.broken != nil {
		return d.broken
	}
	if !env.Queues[rxQueue].Enabled() || !env.Queues[txQueue].Enabled() {
		return nil
	}
	if d.k == nil {
		if err := d.reopen(); err != nil {
			return err
		}
	}
	if d.wires == nil {
		w, err := newWires()
		if err != nil {
			return err
		}
		d.wires = w
	}
	d.used = true
	if err := d.handOver(env); err != nil {
		return errors.Join(err, d.k.SetRunning(false))
	}
	for i, call := range d.wires.calls {
		env.Forward(i, call)
	}
	env.Go("vhost", func(ctx context.Context) error { return d.supervise(ctx, env) })
	for i := range d.wires.calls {
		env.Kick(i) // for what was added before the kernel looked
	}
	return nil
}

// handOver sets the kernel's side up and starts it. The core has validated the
// rings.
func (d *Vhost) handOver(env *virtio.Env) error {
	if err := vhostring.Prepare(d.k, env); err != nil {
		return err
	}
	for i, call := range d.wires.calls {
		v, err := vhostring.Vring(env, env.Queues[i], i)
		if err != nil {
			return err
		}
		v.Call, v.Err = call.FD(), d.wires.fault.FD()
		if err := d.k.SetVring(v); err != nil {
			return err
		}
	}
	return d.k.SetRunning(true)
}

// supervise waits until the rings are wanted back, or the kernel finds one
// broken, and takes them back.
func (d *Vhost) supervise(ctx context.Context, env *virtio.Env) error {
	fault := d.wires.fault
	defer fault.Until(ctx)()
	err := fault.Wait()
	switch {
	case errors.Is(err, eventfd.ErrInterrupted):
		err = nil
	case err == nil:
		err = virtio.GuestErrorf("the kernel finds a packet or a ring broken")
	}
	return errors.Join(err, d.takeBack(env))
}

// takeBack stops the kernel's side.
func (d *Vhost) takeBack(env *virtio.Env) error {
	err := d.k.SetRunning(false)
	for i := range d.wires.calls {
		if err != nil {
			break
		}
		err = vhostring.TakeBack(d.k, env.Queues[i], i)
	}
	env.Mem.MarkAllDirty() // the kernel keeps no log of the pages it writes
	if err != nil {
		d.broken = fmt.Errorf("rings not had back from the kernel: %w", err)
	}
	return d.broken
}
