package vsock

import (
	"net"
	"sync"
	"time"
)

// deadline is one direction's time limit, guarded by the device's mu.
type deadline struct {
	passed bool
	timer  *time.Timer
	round  uint64 // of set: a timer that was replaced may still fire
}

func (l *deadline) stop() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.round++
}

// set replaces the limit and wakes who waits under the old one.
func (l *deadline) set(t time.Time, wake *sync.Cond) {
	l.stop()
	left := time.Until(t)
	l.passed = !t.IsZero() && left <= 0
	wake.Broadcast()
	if t.IsZero() || l.passed {
		return
	}
	round := l.round
	l.timer = time.AfterFunc(left, func() {
		wake.L.Lock()
		defer wake.L.Unlock()
		if l.round == round {
			l.passed = true
			wake.Broadcast()
		}
	})
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, true, true) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, true, false) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, false, true) }

func (c *Conn) setDeadlines(t time.Time, read, write bool) error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.closed {
		return c.fail("set deadline", net.ErrClosed)
	}
	if read {
		c.readBy.set(t, &c.readable)
	}
	if write {
		c.writeBy.set(t, &c.writable)
	}
	return nil
}
