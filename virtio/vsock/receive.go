package vsock

import (
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
)

// receive acts on one packet of the guest; data is its payload.
func (d *Device) receive(h header, data memory.Vec) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.srcCID != d.cid || h.dstCID != hostCID {
		d.metrics.Refused.Add(1) // from or to somebody who does not exist
		return
	}
	c := d.conns[key{h.srcPort, h.dstPort}]
	switch {
	case h.kind != typeStream:
		d.refuse(h) // §5.10.6.4
	case h.op == opRequest:
		d.accept(h, c)
	case c == nil && h.op == opReset: // it crossed ours
	case c == nil:
		d.refuse(h)
	default:
		c.peerSize, c.peerDone = h.bufAlloc, h.fwdCnt
		if c.credit() > 0 {
			c.asked = false
		}
		if !d.deliver(c, h, data) {
			d.metrics.Refused.Add(1)
			d.abort(c, unix.ECONNRESET)
		}
		d.schedule(c) // credit may have come or gone
	}
}

// deliver acts on a packet of a known connection; false means that it broke
// the protocol.
func (d *Device) deliver(c *Conn, h header, data memory.Vec) bool {
	if h.op == opReset {
		err := unix.ECONNRESET
		if c.dialed && !c.established {
			err = unix.ECONNREFUSED
		}
		d.drop(c, err)
		return true
	}
	if !c.established {
		// Only an answer to a request of ours that has been sent.
		if h.op != opResponse || !c.dialed || c.due&dueRequest != 0 {
			return false
		}
		c.established = true
		c.readable.Broadcast()
		return true
	}
	switch h.op {
	case opData:
		return d.store(c, data)
	case opCreditUpdate:
		return true
	case opCreditRequest:
		c.due |= dueCreditUpdate
		return true
	case opShutdown:
		d.shutdown(c, h.flags)
		return true
	}
	return false
}

// shutdown notes what the guest will not do any more; that is for good. When
// it is both, our reset ends the connection (§5.10.6.5).
func (d *Device) shutdown(c *Conn, flags uint32) {
	c.inEnd = c.inEnd || flags&noSend != 0
	c.refused = c.refused || flags&noReceive != 0
	if c.inEnd && c.refused {
		d.abort(c, unix.EPIPE)
		return
	}
	c.readable.Broadcast()
	c.writable.Broadcast()
}

// store buffers data for the reader, within the window that we announced.
func (d *Device) store(c *Conn, data memory.Vec) bool {
	n := data.Len()
	if c.inEnd || n > int(c.window)-c.in.n {
		return false
	}
	d.metrics.TxBytes.Add(uint64(n))
	if c.closed {
		return true // nobody reads it; our shutdown is on its way
	}
	c.in.write(&d.pool, data)
	c.readable.Broadcast()
	return true
}

// accept answers a connection request. A second one for a connection that
// exists ends it: one side is confused.
func (d *Device) accept(h header, old *Conn) {
	if old != nil {
		d.metrics.Refused.Add(1)
		d.abort(old, unix.ECONNRESET)
		return
	}
	l := d.listeners[h.dstPort]
	if l == nil {
		l = d.rest
	}
	if l == nil || len(l.waiting) >= backlogMax || d.live >= maxConns {
		d.refuse(h) // §5.10.6.5
		return
	}
	c := d.connect(key{h.srcPort, h.dstPort})
	c.peerSize, c.peerDone = h.bufAlloc, h.fwdCnt
	if l != d.rest {
		d.respond(c)
	}
	l.enqueue(c)
}

// respond tells the guest that its request was accepted.
func (d *Device) respond(c *Conn) {
	c.established = true
	c.due |= dueResponse
	d.schedule(c)
}

// connect makes a connection known. It holds a slot until drop and Close have
// both been called.
func (d *Device) connect(k key) *Conn {
	c := &Conn{d: d, key: k, window: windowMin}
	c.readable.L, c.writable.L = &d.mu, &d.mu
	// The others' windowMin stays free.
	if d.promised+windowMax+(maxConns-d.live-1)*windowMin <= maxPromised {
		c.window = windowMax
	}
	d.conns[k] = c
	d.live++
	d.promised += int(c.window)
	d.metrics.Opened.Add(1)
	return c
}

// abort ends a connection by a reset.
func (d *Device) abort(c *Conn, err error) {
	if c.due&dueRequest == 0 { // else the guest never heard of it
		d.reset(d.header(c, opReset))
	}
	d.drop(c, err)
}

// drop forgets a connection on the guest's side. What was received stays
// readable.
func (d *Device) drop(c *Conn, err error) {
	if c.err != nil {
		return
	}
	delete(d.conns, c.key)
	c.err = err
	d.schedule(c)
	if c.timer != nil {
		c.timer.Stop()
	}
	// A guest that says all and hangs up at once may have done so before we were
	// there to accept: that is heard all the same.
	if c.listener != nil && c.in.n == 0 {
		c.listener.forget(c)
		c.forget()
	}
	c.release()
	c.readable.Broadcast()
	c.writable.Broadcast()
}
