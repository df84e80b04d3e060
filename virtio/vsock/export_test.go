package vsock

import (
	"fmt"
	"time"
)

// Limits, for tests.
const (
	MaxConns  = maxConns
	Backlog   = backlogMax
	MaxResets = maxResets
	WindowMin = windowMin
	WindowMax = windowMax
	QueueSize = queueSize
)

// Kernel is what NewVhostWith makes a Vhost from.
type Kernel = kernel

// NewVhostWith is NewVhost with another kernel.
func NewVhostWith(cid uint64, open func() (Kernel, error)) (*Vhost, error) {
	return newVhost(Options{CID: cid}, open)
}

// SetCloseTimeout replaces the 8 seconds.
func (d *Device) SetCloseTimeout(t time.Duration) { d.closeTimeout = t }

// Live returns the number of slots in use and of connections the guest may
// know.
func (d *Device) Live() (slots, known int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.live, len(d.conns)
}

// Check returns what is wrong with the device's books.
func (d *Device) Check() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	queued, promised := 0, 0
	for k, c := range d.conns {
		switch {
		case c.key != k || c.err != nil || c.released:
			return fmt.Errorf("connection %v: key %v, released %v: %w", k, c.key, c.released, c.err)
		case c.queued != c.sendable():
			return fmt.Errorf("connection %v: in line %v, has something %v", k, c.queued, c.sendable())
		case c.closed && c.in.n != 0:
			return fmt.Errorf("connection %v is closed and buffers %d bytes", k, c.in.n)
		case c.in.n > int(c.window):
			return fmt.Errorf("connection %v buffers %d bytes, its window is %d", k, c.in.n, c.window)
		}
		if err := c.in.check(); err != nil {
			return err
		}
		promised += int(c.window)
		if c.queued {
			queued++
		}
	}
	for c := d.ready.head; c != nil; c = c.next {
		if queued--; !c.queued || c.err != nil || (c.next == nil) != (c == d.ready.tail) || c.next != nil && c.next.prev != c {
			return fmt.Errorf("connection %v is wrongly in line", c.key)
		}
	}
	switch {
	case queued != 0:
		return fmt.Errorf("%d connections more say they are in line than are", queued)
	case promised > d.promised || d.promised > maxPromised:
		return fmt.Errorf("promised %d bytes, booked %d, at most %d", promised, d.promised, maxPromised)
	case d.live < len(d.conns) || d.live > maxConns:
		return fmt.Errorf("%d connections hold %d slots of %d", len(d.conns), d.live, maxConns)
	case d.resets.n > maxResets+2*maxConns:
		return fmt.Errorf("%d resets wait", d.resets.n)
	case d.pool.n > poolMax:
		return fmt.Errorf("%d chunks kept", d.pool.n)
	}
	for port, l := range d.listeners {
		if len(l.waiting) > backlogMax {
			return fmt.Errorf("%d connections wait at port %d", len(l.waiting), port)
		}
		for _, c := range l.waiting {
			if c.err != nil || c.listener != l || d.conns[c.key] != c {
				return fmt.Errorf("connection %v waits at port %d though it is over", c.key, port)
			}
		}
	}
	return nil
}

func (b *buffer) check() error {
	n := 0
	var last *chunk
	for c := b.head; c != nil; c = c.next {
		if c.start >= c.end || c.end > chunkSize {
			return fmt.Errorf("chunk from %d to %d", c.start, c.end)
		}
		n += c.end - c.start
		last = c
	}
	if n != b.n || last != b.tail {
		return fmt.Errorf("buffer of %d bytes holds %d", b.n, n)
	}
	return nil
}
