package vsock

import (
	"context"

	"github.com/hvctl/hvctl/virtio"
)

// HandleQueue serves one of the three queues.
func (d *Device) HandleQueue(_ context.Context, q *virtio.Queue) error {
	switch q.Index() {
	case rxQueue:
		return d.toGuest(q)
	case txQueue:
		return d.fromGuest(q)
	}
	return d.events(q)
}

// fromGuest takes packets while there is room for the resets they may cause.
func (d *Device) fromGuest(q *virtio.Queue) error {
	for !d.full() {
		c, ok, err := q.Pop()
		if !ok || err != nil {
			return err
		}
		if c.Writable.Len() > 0 {
			return virtio.GuestErrorf("vsock packet with %d writable bytes", c.Writable.Len())
		}
		h, n := parse(c.Readable)
		data := c.Readable.Drop(headerSize)
		if n < headerSize || uint64(h.len) > uint64(data.Len()) {
			return virtio.GuestErrorf("vsock packet of %d bytes says it has %d", c.Readable.Len(), h.len)
		}
		d.metrics.TxPackets.Add(1)
		// §5.10.6: what is beyond len is not data.
		d.receive(h, data.DropLast(data.Len()-int(h.len)))
		if err := q.Push(c, 0); err != nil {
			return err
		}
	}
	return nil // toGuest kicks us
}

// full makes the tx queue rest when too many resets wait.
func (d *Device) full() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stalled = d.resets.n >= maxResets
	return d.stalled
}

// toGuest sends what there is for the driver, one packet a chain. It lets go
// of the lock after each: everybody else needs it too.
func (d *Device) toGuest(q *virtio.Queue) error {
	for {
		if more, err := d.sendOne(q); !more || err != nil {
			return err
		}
	}
}

func (d *Device) sendOne(q *virtio.Queue) (more bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kicked = false
	if d.gated || d.resets.n == 0 && d.ready.head == nil {
		return false, nil
	}
	c, ok, err := q.Pop()
	if !ok || err != nil {
		return false, err
	}
	if c.Readable.Len() > 0 || c.Writable.Len() < headerSize {
		return false, virtio.GuestErrorf("vsock receive buffer of %d readable and %d writable bytes", c.Readable.Len(), c.Writable.Len())
	}
	h := d.nextPacket(c.Writable.Drop(headerSize))
	var b [headerSize]byte
	h.encode(&b)
	c.Writable.CopyIn(b[:])
	d.metrics.RxPackets.Add(1)
	if d.stalled && d.resets.n < maxResets/2 {
		d.stalled = false
		d.env.Kick(txQueue)
	}
	return true, q.Push(c, headerSize+h.len)
}

// events delivers a transport reset and sees it acted on: the driver, having
// dropped its connections, offers the buffer again (§5.10.6.7). Linux keeps
// several buffers there, so what counts is that there is one more than right
// after the delivery.
func (d *Device) events(q *virtio.Queue) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.gated {
		return nil
	}
	var all [eventQueueSize]virtio.Chain
	n := 0
	for n < len(all) {
		c, ok, err := q.Pop()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		all[n] = c
		n++
	}
	deliver := d.event && n > 0
	for i := n - 1; i >= 0 && !(deliver && i == 0); i-- {
		if err := q.Unpop(all[i]); err != nil {
			return err
		}
	}
	if deliver {
		d.event, d.posted = false, n-1
		return pushEvent(q, all[0])
	}
	if !d.event && n > d.posted {
		d.gated = false
		d.kick()
	}
	return nil
}

// pushEvent answers with VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, which is 0.
func pushEvent(q *virtio.Queue, c virtio.Chain) error {
	var event [4]byte
	if c.Readable.Len() > 0 || c.Writable.CopyIn(event[:]) < len(event) {
		return virtio.GuestErrorf("vsock event buffer of %d readable and %d writable bytes", c.Readable.Len(), c.Writable.Len())
	}
	return q.Push(c, uint32(len(event)))
}
