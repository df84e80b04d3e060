package blk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// maxDelay is how long a completed request may wait for its interrupt while
// the batch it came with is served.
const maxDelay = 100 * time.Microsecond

// HandleQueue serves requests: in the order they came with EnginePlain, many at
// a time with EngineURing.
func (d *Device) HandleQueue(_ context.Context, q *virtio.Queue) error {
	w := d.workers[q.Index()]
	if w.flight != nil && !d.writeThrough {
		return w.fly(q)
	}
	return w.serveAll(q)
}

// next takes the next request that the limits let pass. When ok is false, there
// is none, or the queue will be served again when it may.
func (w *worker) next(q *virtio.Queue) (c virtio.Chain, r request, ok bool, err error) {
	c, ok, err = q.Pop()
	if !ok || err != nil {
		return c, r, false, err
	}
	if r, err = parse(c); err != nil {
		return c, r, false, err
	}
	n := 0
	if r.kind == typeIn || r.kind == typeOut {
		n = r.data.Len()
	}
	if wait := w.d.limit.take(n); wait > 0 {
		w.d.metrics.Throttled.Add(1)
		w.pacer.again(w.d.environment(), q, wait)
		return c, r, false, q.Unpop(c)
	}
	return c, r, true, nil
}

// serveAll serves what is there, one request after the other. The driver hears
// of what is done before something slow begins, and after it.
func (w *worker) serveAll(q *virtio.Queue) error {
	told := time.Now()
	last := told // about when the next request was taken
	for {
		c, r, ok, err := w.next(q)
		if !ok || err != nil {
			return err
		}
		slow := w.d.slow(r)
		if slow {
			if err := q.Flush(); err != nil {
				return err
			}
		}
		if err := w.finish(q, c, r); err != nil {
			return err
		}
		now := time.Now()
		w.d.metrics.took(r.kind, now.Sub(last))
		last = now
		if slow || now.Sub(told) >= maxDelay {
			told = now
			if err := q.Flush(); err != nil {
				return err
			}
		}
	}
}

// finish serves one request in place and gives its chain back.
func (w *worker) finish(q *virtio.Queue, c virtio.Chain, r request) error {
	status, written := w.serve(r)
	r.status.CopyIn([]byte{status})
	return q.Push(c, uint32(written+1))
}

// slow reports whether r has to wait for the host's disk or may move much.
func (d *Device) slow(r request) bool {
	switch r.kind {
	case typeIn, typeGetID:
		return false
	case typeOut:
		return d.writeThrough
	}
	return true
}

// serve does one request and returns its status and how many bytes it put into
// the guest's buffer.
func (w *worker) serve(r request) (status byte, written int) {
	d := w.d
	var err error
	switch {
	case r.kind == typeIn:
		written = r.data.Len()
		err = w.read(r)
	case r.kind == typeFlush:
		if err = d.sync(); err == nil {
			d.metrics.Flushes.Add(1)
		}
	case r.kind == typeGetID:
		written = r.data.CopyIn(d.serial[:])
	case !r.changes():
		err = errUnsupported
	case d.im.readOnly:
		err = fmt.Errorf("%w: the disk is read-only", errRefused)
	case r.kind == typeOut:
		err = w.write(r)
	case r.kind == typeDiscard:
		err = w.discard(r)
	default:
		err = w.writeZeroes(r)
	}
	if err == nil && d.writeThrough && r.changes() {
		err = d.sync()
	}
	if err != nil {
		return d.failed(err), 0
	}
	return statusOK, written
}

// errUnsupported is a request or flag that we do not know.
var errUnsupported = errors.New("unsupported request")

// failed counts, and returns the status that says so. Only the host's failures
// are worth a line, and not many.
func (d *Device) failed(err error) byte {
	switch {
	case errors.Is(err, errUnsupported):
		d.metrics.Unsupported.Add(1)
		return statusUnsupported
	case errors.Is(err, errRefused):
		d.metrics.GuestMistakes.Add(1)
	default:
		if n := d.metrics.Failures.Add(1); n <= failuresLogged {
			d.log.Error("disk I/O failed", "path", d.im.f.Name(), "err", err, "count", n)
		}
	}
	return statusIOErr
}

const failuresLogged = 8

func (d *Device) sync() error {
	d.metrics.Syncs.Add(1)
	return d.im.flush()
}

func (w *worker) read(r request) error {
	d := w.d
	s, err := d.place(r)
	if err != nil {
		return err
	}
	if err := d.im.read(&w.vec, w.buffers(r.data), s.off); err != nil {
		return err
	}
	d.metrics.Reads.Add(1)
	d.metrics.ReadBytes.Add(uint64(s.n))
	return nil
}

func (w *worker) write(r request) error {
	d := w.d
	s, err := d.place(r)
	if err != nil {
		return err
	}
	if err := d.im.write(&w.vec, w.buffers(r.data), s.off); err != nil {
		return err
	}
	d.metrics.Writes.Add(1)
	d.metrics.WriteBytes.Add(uint64(s.n))
	return nil
}

// place returns where on the disk r.data belongs.
func (d *Device) place(r request) (span, error) {
	n := r.data.Len()
	if n%sectorSize != 0 || n > maxTransfer {
		return span{}, fmt.Errorf("%w: %d bytes", errRefused, n)
	}
	return within(r.sector, uint64(n)/sectorSize, d.im.sectors.Load())
}

// buffers lists v in backing that is reused.
func (w *worker) buffers(v memory.Vec) [][]byte {
	w.bufs = v.AppendBuffers(w.bufs[:0])
	return w.bufs
}

func (w *worker) discard(r request) error {
	segs, err := w.segments(r, maxDiscardSegments, maxDiscard, 0)
	if err != nil {
		return err
	}
	for _, s := range segs {
		if err := w.d.im.discard(s.span); err != nil {
			return err
		}
	}
	w.d.metrics.Discards.Add(1)
	return nil
}

func (w *worker) writeZeroes(r request) error {
	segs, err := w.segments(r, maxZeroSegments, maxZero, flagUnmap)
	if err != nil {
		return err
	}
	for _, s := range segs {
		if err := w.d.im.zero(&w.vec, s.span, s.flags&flagUnmap != 0); err != nil {
			return err
		}
	}
	w.d.metrics.WriteZeroes.Add(1)
	return nil
}

// segments decodes and checks all ranges before any is touched.
func (w *worker) segments(r request, most int, sectors, flags uint32) ([]segment, error) {
	segs, err := segments(r.data, w.segs[:0], most)
	if err != nil {
		return nil, err
	}
	w.segs = segs
	for i := range segs {
		if err := segs[i].check(w.d.im.sectors.Load(), sectors, flags); err != nil {
			return nil, err
		}
	}
	return segs, nil
}
