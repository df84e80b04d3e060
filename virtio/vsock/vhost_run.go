package vsock

import (
	"context"
	"errors"
	"fmt"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/internal/vhost"
	"github.com/hvctl/hvctl/virtio"
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
	f := uint64(env.Features) & d.k.Features()
	if err := d.k.SetFeatures(f); err != nil {
		return err
	}
	var regions []vhost.MemoryRegion
	for _, r := range env.Mem.Regions() {
		regions = append(regions, vhost.MemoryRegion{GuestPhysAddr: uint64(r.GPA), MemorySize: r.Size, UserspaceAddr: uint64(r.HVA())})
	}
	if err := d.k.SetMemTable(regions); err != nil {
		return err
	}
	for i, call := range d.wires.calls {
		v, err := vring(env, env.Queues[i])
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

// vring describes q by this process's addresses.
func vring(env *virtio.Env, q *virtio.Queue) (vhost.Vring, error) {
	s := q.Rings()
	v := vhost.Vring{Index: q.Index(), Num: s.Size, Base: s.NextAvail, Kick: q.KickFD().FD()}
	for _, p := range []struct {
		to *uint64
		of virtio.RingPart
	}{{&v.Desc, virtio.PartDesc}, {&v.Avail, virtio.PartAvail}, {&v.Used, virtio.PartUsed}} {
		at, n := s.Part(p.of)
		hva, err := env.Mem.HVA(at, n)
		if err != nil {
			return v, virtio.GuestErrorf("queue %d, %v: %w", q.Index(), p.of, err)
		}
		*p.to = uint64(hva)
	}
	return v, nil
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

// takeBack stops the kernel's side. It serves each chain to the end before it
// takes the next, so both indices of a ring are the same then. It keeps no log
// of the pages it has written: all of them count as dirty.
func (d *Vhost) takeBack(env *virtio.Env) error {
	err := d.k.SetRunning(false)
	for i := range d.wires.calls {
		if err != nil {
			break
		}
		var n uint16
		if n, err = d.k.VringBase(i); err == nil {
			env.Queues[i].SetNext(n, n)
		}
	}
	for _, r := range env.Mem.Regions() {
		env.Mem.MarkDirty(r.GPA, r.Size)
	}
	if err != nil {
		d.broken = fmt.Errorf("rings not had back from the kernel: %w", err)
	}
	return d.broken
}
