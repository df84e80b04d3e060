package vsock

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Addr is one end of a connection.
type Addr struct {
	CID  uint64
	Port uint32
}

// Network implements net.Addr.
func (Addr) Network() string { return "vsock" }

func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

type key struct{ guest, host uint32 } // ports

// Conn is one stream connection: a net.Conn with CloseWrite. Errors are
// *net.OpError around net.ErrClosed, os.ErrDeadlineExceeded, ECONNRESET or
// EPIPE; the end of what the guest sends is io.EOF.
type Conn struct {
	d   *Device
	key key

	writing sync.Mutex // one Write at a time; taken before d.mu

	// All below is guarded by d.mu.
	readable, writable sync.Cond
	dialed             bool // by us
	established        bool
	err                error // why the guest's side is over
	closed             bool  // Close was called: the host's side is over
	released           bool  // the slot is free again
	listener           *Listener
	timer              *time.Timer // after Close: gives up waiting for the guest

	window   uint32 // our buf_alloc
	in       buffer
	inEnd    bool   // the guest sends no more
	received uint32 // bytes the reader took: our fwd_cnt
	told     uint32 // fwd_cnt as the driver last saw it

	due      uint8  // control packets
	shut     uint32 // flags of dueShutdown
	out      []byte // what the current Write has left
	outEnd   bool   // we send no more
	refused  bool   // the guest receives no more
	sent     uint32
	peerSize uint32 // the driver's buf_alloc and fwd_cnt
	peerDone uint32
	asked    bool // for credit, since there was some

	queued     bool // in d.ready
	prev, next *Conn

	readBy, writeBy deadline
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.fail("read", net.ErrClosed)
		case c.readBy.passed:
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case c.in.n > 0:
			return c.take(p), nil
		case c.inEnd:
			return 0, io.EOF
		case c.err != nil:
			return 0, c.fail("read", c.err)
		}
		c.readable.Wait()
	}
}

// take reads, and tells the driver of the room before it runs out of credit,
// but not after every read.
func (c *Conn) take(p []byte) int {
	n := c.in.read(&c.d.pool, p)
	c.received += uint32(n)
	if c.err == nil && !c.inEnd && c.received-c.told >= c.window/2 {
		c.due |= dueCreditUpdate
		c.d.schedule(c)
	}
	return n
}

// Write implements net.Conn. It returns when the guest's receive buffers have
// taken everything.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	c.out = p
	defer c.withdraw() // p is the caller's again
	for {
		var err error
		switch {
		case c.closed:
			err = net.ErrClosed
		case c.writeBy.passed:
			err = os.ErrDeadlineExceeded
		case len(c.out) == 0:
			return len(p), nil
		case c.err != nil:
			err = c.err
		case c.outEnd || c.refused:
			err = unix.EPIPE
		}
		if err != nil {
			return len(p) - len(c.out), c.fail("write", err)
		}
		c.d.schedule(c)
		c.writable.Wait()
	}
}

func (c *Conn) withdraw() {
	c.out = nil
	c.d.schedule(c)
}

func (c *Conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "vsock", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// CloseWrite tells the guest that nothing more will come (half close). A Write
// that waits returns EPIPE.
func (c *Conn) CloseWrite() error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.shutdown(noSend)
	return nil
}

// shutdown sends what we will not do any more.
func (c *Conn) shutdown(flags uint32) {
	c.outEnd = true
	c.writable.Broadcast()
	if c.err == nil && c.shut != c.shut|flags {
		c.shut |= flags
		c.due |= dueShutdown
		c.d.schedule(c)
	}
}

// Close ends both directions and does not wait. What was written still reaches
// the guest; what it has sent is lost.
func (c *Conn) Close() error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.forget()
	c.shutdown(noSend | noReceive)
	c.release()
	if c.err == nil {
		// The driver answers with a reset; one that does not is not waited for.
		c.timer = time.AfterFunc(c.d.closeTimeout, func() {
			c.d.mu.Lock()
			defer c.d.mu.Unlock()
			if c.err == nil {
				c.d.abort(c, net.ErrClosed)
			}
		})
	}
	return nil
}

// forget is the end of the host's side.
func (c *Conn) forget() {
	c.closed = true
	c.in.clear(&c.d.pool)
	c.readBy.stop()
	c.writeBy.stop()
	c.readable.Broadcast()
	c.writable.Broadcast()
}

// release frees the slot when both sides have let go.
func (c *Conn) release() {
	if c.closed && c.err != nil && !c.released {
		c.released = true
		c.d.live--
		c.d.promised -= int(c.window)
	}
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return Addr{hostCID, c.key.host} }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return Addr{c.d.cid, c.key.guest} }
