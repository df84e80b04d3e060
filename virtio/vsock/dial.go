package vsock

import (
	"context"
	"fmt"
	"net"
)

const (
	// firstHostPort is where the ports of Dial begin, far from well-known ones.
	firstHostPort = 1 << 30
	// anyPort means "choose one" to a guest's socket calls.
	anyPort = 1<<32 - 1
)

// Dial connects to a port that the guest listens on. It waits for the guest's
// answer, and before that for the guest to have a driver, so ctx should end.
// Errors wrap ECONNREFUSED when nobody listens, ErrTooMany, net.ErrClosed or
// ctx's cause.
func (d *Device) Dial(ctx context.Context, port uint32) (*Conn, error) {
	c, err := d.dial(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("dial guest port %d: %w", port, err)
	}
	return c, nil
}

func (d *Device) dial(ctx context.Context, port uint32) (*Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case d.closed:
		return nil, net.ErrClosed
	case d.live >= maxConns:
		return nil, fmt.Errorf("%w: %d", ErrTooMany, d.live)
	}
	c := d.connect(key{guest: port, host: d.freePort(port)})
	c.dialed, c.due = true, dueRequest
	d.schedule(c)
	stop := context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !c.established && c.err == nil {
			d.abort(c, context.Cause(ctx))
		}
	})
	defer stop()
	for !c.established && c.err == nil {
		c.readable.Wait()
	}
	if c.established { // possibly reset since: the caller will see
		return c, nil
	}
	c.forget()
	c.release()
	return nil, c.err
}

// freePort returns a host port that is in use neither with the guest's port
// nor by a listener. There are far more ports than connections.
func (d *Device) freePort(guest uint32) uint32 {
	for {
		p := d.nextPort
		if d.nextPort++; d.nextPort == anyPort {
			d.nextPort = firstHostPort
		}
		if d.conns[key{guest, p}] == nil && d.listeners[p] == nil {
			return p
		}
	}
}
