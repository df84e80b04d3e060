package mem

import (
	"context"
	"encoding/binary"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// Types of requests (§5.15.6).
const (
	reqPlug = iota
	reqUnplug
	reqUnplugAll
	reqState
)

// Answers.
const (
	respACK = iota
	respNACK
	respBusy
	respError
)

// Answers to reqState.
const (
	statePlugged = iota
	stateUnplugged
	stateMixed
)

const (
	requestSize = 24 // struct virtio_mem_req: type, padding, address, number of blocks, padding
	answerSize  = 10 // struct virtio_mem_resp: type, padding, state
	offAddr     = 8
	offBlocks   = 16
	offState    = 8
)

// request is one, copied from the guest.
type request struct {
	kind   uint16
	addr   memory.GPA
	blocks uint16
}

// HandleQueue answers requests.
func (d *Device) HandleQueue(_ context.Context, q *virtio.Queue) error {
	for {
		c, ok, err := q.Pop()
		if !ok || err != nil {
			return err
		}
		if c.Readable.Len() != requestSize || c.Writable.Len() < answerSize {
			return virtio.GuestErrorf("mem request with %d readable and %d writable bytes", c.Readable.Len(), c.Writable.Len())
		}
		var b [requestSize]byte
		c.Readable.CopyOut(b[:])
		le := binary.LittleEndian
		kind, state := d.serve(request{le.Uint16(b[:]), memory.GPA(le.Uint64(b[offAddr:])), le.Uint16(b[offBlocks:])})
		var a [answerSize]byte
		le.PutUint16(a[:], kind)
		le.PutUint16(a[offState:], state)
		if err := q.Push(c, uint32(c.Writable.CopyIn(a[:]))); err != nil {
			return err
		}
	}
}

// serve carries a request out, and counts those that it does not.
func (d *Device) serve(r request) (kind, state uint16) {
	d.mu.Lock()
	defer d.mu.Unlock()
	kind, state, err := d.do(r)
	switch kind {
	case respNACK, respError:
		d.metrics.Refused.Add(1)
	case respBusy:
		d.metrics.Busy.Add(1)
		d.env.Log.Debug("memory stays as it is", "dev", "mem", "err", err)
	case respACK:
		if r.kind != reqState {
			d.tell()
		}
	}
	return kind, state
}

// do carries a request out. err says why the host could not. mu is held.
func (d *Device) do(r request) (kind, state uint16, err error) {
	if r.kind == reqUnplugAll {
		if err := d.unplugAll(); err != nil {
			return respBusy, 0, err
		}
		return respACK, 0, nil
	}
	first, n, ok := d.blocks(r)
	if !ok {
		return respError, 0, nil
	}
	have := d.memory.Count(first, n)
	switch {
	case r.kind == reqState && have == n:
		return respACK, statePlugged, nil
	case r.kind == reqState && have == 0:
		return respACK, stateUnplugged, nil
	case r.kind == reqState:
		return respACK, stateMixed, nil
	case r.kind == reqPlug && have == 0:
		if d.memory.Plugged()+n*d.memory.BlockSize() > d.requested { // §5.15.6.2: more than it is to have
			return respNACK, 0, nil
		}
		err = d.memory.Plug(first, n)
	case r.kind == reqUnplug && have == n:
		err = d.memory.Unplug(first, n)
	default:
		return respError, 0, nil
	}
	if err != nil {
		return respBusy, 0, err
	}
	return respACK, 0, nil
}

// blocks returns the blocks that a request names, if the region has them.
func (d *Device) blocks(r request) (first, n uint64, ok bool) {
	span, block := d.memory.Span(), d.memory.BlockSize()
	if r.addr < span.GPA || uint64(r.addr-span.GPA) >= span.Size || uint64(r.addr-span.GPA)%block != 0 {
		return 0, 0, false
	}
	first, n = uint64(r.addr-span.GPA)/block, uint64(r.blocks)
	return first, n, n > 0 && n <= span.Size/block-first
}

// unplugAll takes every block that the guest has.
func (d *Device) unplugAll() error {
	set := memory.NewBitmap(d.memory.Span().Size / d.memory.BlockSize())
	set.OrWords(0, d.memory.Blocks())
	for first, n := range set.All() {
		if err := d.memory.Unplug(first, n); err != nil {
			return err
		}
	}
	return nil
}
