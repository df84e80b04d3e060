package vsock

import (
	"fmt"
	"net"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Listener accepts connections that the guest opens to one host port. It is a
// net.Listener.
type Listener struct {
	d    *Device
	port uint32

	// Guarded by d.mu.
	wake    sync.Cond
	waiting []*Conn // not accepted yet
	closed  bool
}

// Listen accepts connections to port. Of those that nobody has accepted yet
// backlogMax wait, further ones are refused. Errors wrap ErrPortInUse or
// net.ErrClosed.
func (d *Device) Listen(port uint32) (*Listener, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, net.ErrClosed)
	case d.listeners[port] != nil:
		return nil, fmt.Errorf("%w: %d", ErrPortInUse, port)
	}
	l := &Listener{d: d, port: port}
	l.wake.L = &d.mu
	d.listeners[port] = l
	return l, nil
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, err // no typed nil
	}
	return c, nil
}

func (l *Listener) accept() (*Conn, error) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	for !l.closed && len(l.waiting) == 0 {
		l.wake.Wait()
	}
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.Addr(), Err: net.ErrClosed}
	}
	c := l.waiting[0]
	l.waiting = slices.Delete(l.waiting, 0, 1)
	c.listener = nil
	return c, nil
}

func (l *Listener) enqueue(c *Conn) {
	c.listener = l
	l.waiting = append(l.waiting, c)
	l.wake.Signal()
}

// forget takes a connection out that ended before somebody accepted it.
func (l *Listener) forget(c *Conn) {
	l.waiting = slices.DeleteFunc(l.waiting, func(w *Conn) bool { return w == c })
	c.listener = nil
}

// Close implements net.Listener. Connections that were accepted stay, those
// that wait are reset.
func (l *Listener) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	l.close()
	return nil
}

func (l *Listener) close() {
	if l.closed {
		return
	}
	l.closed = true
	if l == l.d.rest {
		l.d.rest = nil
	} else {
		delete(l.d.listeners, l.port)
	}
	for len(l.waiting) > 0 {
		c := l.waiting[0]
		l.forget(c)
		c.forget()
		if c.err == nil {
			l.d.abort(c, unix.ECONNRESET)
		}
		c.release()
	}
	l.wake.Broadcast()
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return Addr{hostCID, l.port} }
