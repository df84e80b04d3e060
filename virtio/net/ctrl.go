package net

import (
	"encoding/binary"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// Commands of the control queue (§5.1.6.5): class and command.
const (
	classRX        = 0
	cmdPromisc     = 0
	cmdAllMulti    = 1
	cmdAllUni      = 2
	cmdNoMulti     = 3
	cmdNoUni       = 4
	cmdNoBcast     = 5
	classMAC       = 1
	cmdMACTable    = 0
	cmdMACAddr     = 1
	classAnnounce  = 3
	cmdAnnounceAck = 0
	classMQ        = 4
	cmdMQPairs     = 0
	classOffloads  = 5
	cmdOffloads    = 0
	ctrlHeader     = 2
	ackOK, ackErr  = 0, 1
	tableEntryLen  = 6
	tableHeader    = 4
)

// control serves the control queue.
func (d *Device) control(q *virtio.Queue) error {
	for {
		c, ok, err := q.Pop()
		if err != nil || !ok {
			return err
		}
		d.metrics.Commands.Add(1)
		ack := byte(ackErr)
		var h [ctrlHeader]byte
		if c.Readable.CopyOut(h[:]) == len(h) && d.command(h[0], h[1], c.Readable.Drop(len(h))) {
			ack = ackOK
		}
		if ack != ackOK {
			d.metrics.CommandErr.Add(1)
		}
		if err := q.Push(c, uint32(c.Writable.CopyIn([]byte{ack}))); err != nil {
			return err
		}
	}
}

// command does one command; false refuses it.
func (d *Device) command(class, cmd byte, data memory.Vec) bool {
	switch {
	case class == classRX:
		var on [1]byte
		return data.CopyOut(on[:]) == 1 && on[0] <= 1 && d.rxMode(cmd, on[0] == 1)
	case class == classMAC && cmd == cmdMACTable:
		return d.macTables(data)
	case class == classMAC && cmd == cmdMACAddr:
		var a hwAddr
		if data.CopyOut(a[:]) < len(a) || a[0]&1 != 0 || a == (hwAddr{}) {
			return false
		}
		d.changeFilter(func(f *filter) { f.MAC = a })
		return true
	case class == classAnnounce && cmd == cmdAnnounceAck:
		d.mu.Lock()
		d.announce = false
		d.mu.Unlock()
		return true
	case class == classMQ && cmd == cmdMQPairs:
		var n [2]byte
		return data.CopyOut(n[:]) == 2 && d.setPairs(int(binary.LittleEndian.Uint16(n[:])))
	case class == classOffloads && cmd == cmdOffloads:
		var o [8]byte
		return data.CopyOut(o[:]) == 8 && d.setOffloads(virtio.Features(binary.LittleEndian.Uint64(o[:])))
	}
	return false
}

// changeFilter replaces the filter; only the control queue's worker does.
func (d *Device) changeFilter(change func(*filter)) {
	f := *d.filter.Load()
	change(&f)
	d.filter.Store(&f)
}

func (d *Device) rxMode(cmd byte, on bool) bool {
	var set func(*filter)
	switch cmd {
	case cmdPromisc:
		set = func(f *filter) { f.Promisc = on }
	case cmdAllMulti:
		set = func(f *filter) { f.AllMulti = on }
	case cmdAllUni:
		set = func(f *filter) { f.AllUni = on }
	case cmdNoMulti:
		set = func(f *filter) { f.NoMulti = on }
	case cmdNoUni:
		set = func(f *filter) { f.NoUni = on }
	case cmdNoBcast:
		set = func(f *filter) { f.NoBcast = on }
	default:
		return false
	}
	d.changeFilter(set)
	return true
}

// macTables reads the unicast and then the multicast table, each a count and
// that many addresses.
func (d *Device) macTables(data memory.Vec) bool {
	uni, uniOver, data, ok := macTable(data)
	if !ok {
		return false
	}
	multi, multiOver, _, ok := macTable(data)
	if !ok {
		return false
	}
	d.changeFilter(func(f *filter) {
		f.Uni, f.UniOver, f.Multi, f.MultOver = uni, uniOver, multi, multiOver
	})
	return true
}

func macTable(data memory.Vec) (table []hwAddr, over bool, rest memory.Vec, ok bool) {
	var h [tableHeader]byte
	if data.CopyOut(h[:]) < len(h) {
		return nil, false, rest, false
	}
	n := binary.LittleEndian.Uint32(h[:])
	data = data.Drop(len(h))
	if uint64(n)*tableEntryLen > uint64(data.Len()) {
		return nil, false, rest, false
	}
	rest = data.Drop(int(n) * tableEntryLen)
	if n > maxTable {
		return nil, true, rest, true
	}
	for range n {
		var a hwAddr
		data.CopyOut(a[:])
		table = append(table, a)
		data = data.Drop(len(a))
	}
	return table, false, rest, true
}

// setPairs is VQ_PAIRS_SET (§5.1.6.5.5).
func (d *Device) setPairs(n int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.mq || n < 1 || n > len(d.pairs) {
		return false
	}
	return d.applyLocked(n) == nil
}

// setOffloads is GUEST_OFFLOADS_SET: a subset of what was negotiated.
func (d *Device) setOffloads(f virtio.Features) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	var known virtio.Features
	for _, g := range guestOffloads {
		known |= g.bit
	}
	if d.env == nil || !d.env.Features.Has(featCtrlOffloads) || f&^(d.env.Features&known) != 0 || d.CheckFeatures(f) != nil {
		return false
	}
	old, was := d.offloads, d.chosen
	d.offloads, d.chosen = offloads(f), true
	if d.applyLocked(d.active) != nil {
		d.offloads, d.chosen = old, was
		return false
	}
	return true
}
