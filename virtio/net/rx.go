package net

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/virtio"
)

// patience is how long a frame that does not fit waits for more buffers. Only
// a driver whose ring cannot hold the largest frame at all (§5.1.6.3.1) has to
// wait that long; others are at work, and slow where they are emulated.
const patience = 5 * time.Second

// receiver serves one receive queue.
//
// Without MRG_RXBUF a frame takes one chain. With it a frame takes as many as
// it needs, and how many is known only when it has been read: the receiver
// holds chains for the largest frame, reads into them, pushes those that were
// touched and keeps the others for the next frame. What it holds goes back
// (Unpop) before it returns.
//
// The kernel looks at every buffer it is offered, so it is offered as many as
// frames took of late and one more; what does not fit there comes by the bounce
// buffer.
type receiver struct {
	d       *Device
	b       Backend
	enabled atomic.Bool // the driver uses the pair
	merge   bool        // MRG_RXBUF
	need    int         // largest frame to expect, header included; for direct reads

	// While serve runs:
	ctx    context.Context
	q      *virtio.Queue
	err    error
	run    func(Frames) bool // r.drain, bound once
	held   []virtio.Chain
	room   int      // bytes in held
	bufs   [][]byte // the bytes of held, or of its first chain without merge
	expect int      // how many of bufs the next frame may take
	into   [][]byte // what the kernel is offered

	bounce []byte    // for frames when held is too small; made when needed
	stash  int       // bytes of a frame in bounce that waits for buffers
	since  time.Time // when it began to wait

	patience time.Duration // patience, but for tests
}

func (r *receiver) init(d *Device, b Backend) {
	r.d, r.b = d, b
	r.enabled.Store(true)
	r.patience = patience
	r.run = r.drain
}

// reset forgets the driver, and the frames that were meant for it: they may be
// segments that the next driver does not ask for.
func (r *receiver) reset() {
	r.stash = 0
	_ = r.b.SetOffloads(0) // a lost backend shows when it is read
	discard(r.b)
	r.bounce = nil // mostly never used again
}

// negotiated prepares for a driver with features f.
func (r *receiver) negotiated(f virtio.Features) {
	r.merge = f.Has(featMrgRxbuf)
	mtu := int(r.d.o.MTU)
	if mtu == 0 {
		mtu = defaultMTU
	}
	r.need = HeaderLen + etherLen + vlanTags + mtu
	if offloads(f)&segmented != 0 {
		r.need = maxFrame
	}
}

// serve hands frames to the driver until it is out of buffers or ctx ends.
func (r *receiver) serve(ctx context.Context, q *virtio.Queue) error {
	r.ctx, r.q, r.err = ctx, q, nil
	err := r.b.Receive(ctx, r.run)
	var unpop error
	for _, c := range slices.Backward(r.held) {
		unpop = errors.Join(unpop, q.Unpop(c))
	}
	clear(r.held)
	clear(r.bufs)
	clear(r.into)
	r.held, r.bufs, r.room = r.held[:0], r.bufs[:0], 0
	switch {
	case unpop != nil:
		return unpop
	case errors.Is(r.err, errLost) || r.err == nil && err != nil:
		r.d.lost(ctx) // or ctx has ended
		return nil
	}
	return r.err
}

// drain moves frames until the backend has none (false: wait for one) or
// nothing more can be done now (true).
func (r *receiver) drain(fr Frames) (done bool) {
	for r.ctx.Err() == nil {
		if r.err = r.fill(); r.err != nil {
			return true
		}
		if r.stash > 0 {
			if !r.fromBounce(r.stash) {
				return true
			}
			continue
		}
		if !r.enabled.Load() {
			return true // until it is, and the queue kicked
		}
		if len(r.held) == 0 {
			r.d.metrics.RxDry.Add(1)
			return true
		}
		direct := r.room >= r.need && len(r.bufs) <= maxIovecs
		near := 0 // of bufs
		if direct {
			near = min(r.expect+1, len(r.bufs))
		}
		r.into = append(r.into[:0], r.bufs[:near]...)
		if near < len(r.bufs) {
			r.into = append(r.into, r.bounceBuf())
		}
		n, err := fr.Readv(r.into)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false
		case errors.Is(err, unix.EBADFD) && !r.enabled.Load():
			return true // just now taken out of use
		case lost(err) || err == nil && n == 0:
			r.err = errLost
			return true
		case err != nil || n < minFrame || direct && n > r.room:
			r.d.metrics.RxDropped.Add(1)
			continue
		}
		if !direct {
			if !r.fromBounce(n) {
				return true
			}
			continue
		}
		r.spread(n, near)
		if r.err = r.deliver(n); r.err != nil {
			return true
		}
	}
	return true
}

// spread brings what a frame of n bytes has beyond the first near buffers from
// the bounce buffer to the others.
func (r *receiver) spread(n, near int) {
	took := 0
	for _, b := range r.bufs[:near] {
		if n <= 0 {
			break
		}
		n -= len(b)
		took++
	}
	for rest := r.bounce; n > 0; took++ {
		m := copy(r.bufs[took], rest[:n])
		n, rest = n-m, rest[m:]
	}
	// At once for more, slowly for less: large frames come with small ones between.
	r.expect = max(took, r.expect-(r.expect-took+7)/8)
}

// lost reports whether err says that the host's end of the link is gone.
func lost(err error) bool {
	return errors.Is(err, unix.EBADFD) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EIO) || errors.Is(err, unix.ECONNRESET)
}

// fill pops chains until there is room for the largest frame or no more come.
func (r *receiver) fill() error {
	for len(r.held) == 0 || r.merge && r.room < r.need {
		c, ok, err := r.q.Pop()
		if err != nil || !ok {
			return err
		}
		if c.Readable.Len() > 0 || c.Writable.Len() < HeaderLen { // §5.1.6.3.1
			return virtio.GuestErrorf("receive buffer with %d readable and %d writable bytes", c.Readable.Len(), c.Writable.Len())
		}
		r.held = append(r.held, c)
		r.room += c.Writable.Len()
		r.bufs = c.Writable.AppendBuffers(r.bufs)
	}
	return nil
}

func (r *receiver) bounceBuf() []byte {
	if r.bounce == nil {
		r.bounce = make([]byte, maxFrame)
	}
	return r.bounce
}

// fromBounce copies a frame of n bytes from the bounce buffer to the driver.
// It reports whether the frame is gone, delivered or dropped; if not, it waits
// in the stash for more buffers. An error is in r.err.
func (r *receiver) fromBounce(n int) (gone bool) {
	if n > r.room {
		if r.merge && r.stash == 0 {
			r.stash, r.since = n, time.Now()
			kick, i := r.d.kicker(), r.q.Index()
			time.AfterFunc(r.patience, func() { kick(i) })
			r.d.metrics.RxDry.Add(1)
			return false
		}
		if r.merge && time.Since(r.since) < r.patience {
			return false
		}
		// All that the driver offers is too small for it.
		r.stash = 0
		r.d.metrics.RxDropped.Add(1)
		return true
	}
	r.stash = 0
	rest := r.bounce[:n]
	for i := 0; len(rest) > 0; i++ {
		rest = rest[r.held[i].Writable.CopyIn(rest):]
	}
	r.err = r.deliver(n)
	return r.err == nil
}

func (d *Device) kicker() func(int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.env == nil {
		return func(int) {}
	}
	return d.env.Kick
}

// deliver pushes the chains that hold the frame of n bytes at the start of
// held, unless the driver does not want it.
func (r *receiver) deliver(n int) error {
	if !r.wanted() {
		r.d.metrics.RxFiltered.Add(1)
		return nil
	}
	chains, bufs := 0, 0
	for left := n; left > 0; chains++ {
		left -= r.held[chains].Writable.Len()
	}
	// The backend leaves this field to us (§5.1.6.4).
	r.held[0].Writable.Drop(numBuffers).CopyIn([]byte{byte(chains), byte(chains >> 8)})
	left := n
	for _, c := range r.held[:chains] {
		here := min(left, c.Writable.Len())
		left -= here
		r.room -= c.Writable.Len()
		bufs += len(c.Writable.Buffers())
		if err := r.q.Push(c, uint32(here)); err != nil {
			return err
		}
	}
	r.held = r.held[:copy(r.held, r.held[chains:])]
	r.bufs = r.bufs[:copy(r.bufs, r.bufs[bufs:])]
	r.d.metrics.RxPackets.Add(1)
	r.d.metrics.RxBytes.Add(uint64(n - HeaderLen))
	// A driver that is busy with frames has interrupts off; an idle one should
	// start while the next frame is read.
	return r.q.Flush()
}

// wanted applies the driver's filter to the frame at the start of held.
func (r *receiver) wanted() bool {
	if !r.d.up.Load() {
		return false
	}
	f := r.d.filter.Load()
	if f.Promisc {
		return true
	}
	var to hwAddr
	if r.held[0].Writable.Drop(HeaderLen).CopyOut(to[:]) < len(to) {
		return true // spread over tiny buffers: let the driver judge
	}
	return f.wants(to)
}
