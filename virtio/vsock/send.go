package vsock

import "github.com/hvctl/hvctl/memory"

// Control packets that are due on a connection. Each is due at most once at a
// time, so a connection needs no queue of them.
const (
	dueRequest = 1 << iota
	dueResponse
	dueShutdown      // with Conn.shut
	dueCreditRequest // the writer waits for credit
	dueCreditUpdate  // the reader has made room
)

// schedule puts c in line for the driver's buffers if it has something to
// send, and takes it out if it has not. It is called after every change.
func (d *Device) schedule(c *Conn) {
	if c.writes() && c.credit() == 0 && !c.asked {
		c.asked = true
		c.due |= dueCreditRequest
	}
	switch wants := c.err == nil && c.sendable(); {
	case wants && !c.queued:
		d.ready.push(c)
		d.kick()
	case !wants && c.queued:
		d.ready.remove(c)
	}
}

func (c *Conn) sendable() bool { return c.due != 0 || c.writes() && c.credit() > 0 }

// writes reports whether there is data that may still be sent: a Write that
// CloseWrite or the guest's shutdown ended may not have noticed yet.
func (c *Conn) writes() bool { return len(c.out) > 0 && c.err == nil && !c.outEnd && !c.refused }

// credit is how many bytes the driver can take now (§5.10.6.3). A driver that
// takes credit back gets nothing more until it gives new.
func (c *Conn) credit() uint32 {
	if used := c.sent - c.peerDone; used < c.peerSize {
		return c.peerSize - used
	}
	return 0
}

// nextPacket fills room, the data part of a chain, if there is data, and
// returns the header that goes before it. Resets go first, then connections
// in turn, one packet each. Preconditions: there is something to send.
func (d *Device) nextPacket(room memory.Vec) header {
	if d.resets.n > 0 {
		return d.resets.pop()
	}
	c := d.ready.head
	d.ready.remove(c)
	h := d.header(c, opCreditUpdate) // also if there is no room for data
	switch {
	case c.due&dueRequest != 0:
		c.due &^= dueRequest
		h.op = opRequest
	case c.due&dueResponse != 0:
		c.due &^= dueResponse
		h.op = opResponse
	case c.due&dueShutdown != 0:
		c.due &^= dueShutdown
		h.op, h.flags = opShutdown, c.shut
	case c.due&dueCreditRequest != 0:
		c.due &^= dueCreditRequest
		h.op = opCreditRequest
	case c.writes() && c.credit() > 0 && room.Len() > 0:
		h.op, h.len = opData, d.fill(c, room)
	}
	// Every packet carries our credit.
	c.due &^= dueCreditUpdate
	c.told = c.received
	d.schedule(c) // behind the others
	return h
}

// fill moves what c's writer has into room.
func (d *Device) fill(c *Conn, room memory.Vec) uint32 {
	n := min(uint32(min(len(c.out), maxPacket)), uint32(min(room.Len(), maxPacket)), c.credit())
	room.CopyIn(c.out[:n])
	c.out = c.out[n:]
	c.sent += n
	d.metrics.RxBytes.Add(uint64(n))
	if len(c.out) == 0 {
		c.writable.Broadcast()
	}
	return n
}

// maxPacket is the most data in one packet: one writer may not hold the others
// up, however large a buffer the driver offers. Linux sends no larger ones.
const maxPacket = 64 << 10

// header begins a packet of c, with our credit (§5.10.6.3).
func (d *Device) header(c *Conn, op uint16) header {
	return header{
		srcCID: hostCID, dstCID: d.cid, srcPort: c.key.host, dstPort: c.key.guest,
		kind: typeStream, op: op, bufAlloc: c.window, fwdCnt: c.received,
	}
}

// reset queues a reset; h says for whom. Those that the driver causes are
// bounded by full, those that the host's side causes by the connections.
func (d *Device) reset(h header) {
	h.op = opReset
	d.metrics.Resets.Add(1)
	d.resets.push(h)
	d.kick()
}

// refuse answers a packet that belongs to no connection, unless it is a reset
// itself: two sides must not answer each other's for ever.
func (d *Device) refuse(h header) {
	d.metrics.Refused.Add(1)
	if h.op != opReset {
		d.reset(header{srcCID: hostCID, dstCID: d.cid, srcPort: h.dstPort, dstPort: h.srcPort, kind: h.kind})
	}
}

// kick wakes the rx queue's worker, unless it was woken already.
func (d *Device) kick() {
	if d.env != nil && !d.kicked {
		d.kicked = true
		d.env.Kick(rxQueue)
	}
}
