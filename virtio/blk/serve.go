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

// HandleQueue serves requests in the order they came. The driver hears of
// what is done before something slow begins, and after it.
func (d *Device) HandleQueue(_ context.Context, q *virtio.Queue) error {
	told := time.Now()
	for {
		c, ok, err := q.Pop()
		if !ok || err != nil {
			return err
		}
		r, err := parse(c)
		if err != nil {
			return err
		}
		slow := d.slow(r)
		if slow {
			if err := q.Flush(); err != nil {
				return err
			}
		}
		status, written := d.serve(r)
		r.status.CopyIn([]byte{status})
		if err := q.Push(c, uint32(written+1)); err != nil {
			return err
		}
		if now := time.Now(); slow || now.Sub(told) >= maxDelay {
			told = now
			if err := q.Flush(); err != nil {
				return err
			}
		}
	}
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
func (d *Device) serve(r request) (status byte, written int) {
	var err error
	switch {
	case r.kind == typeIn:
		written = r.data.Len()
		err = d.read(r)
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
		err = d.write(r)
	case r.kind == typeDiscard:
		err = d.discard(r)
	default:
		err = d.writeZeroes(r)
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

func (d *Device) read(r request) error {
	s, err := d.place(r)
	if err != nil {
		return err
	}
	if err := d.im.read(d.buffers(r.data), s.off); err != nil {
		return err
	}
	d.metrics.Reads.Add(1)
	d.metrics.ReadBytes.Add(uint64(s.n))
	return nil
}

func (d *Device) write(r request) error {
	s, err := d.place(r)
	if err != nil {
		return err
	}
	if err := d.im.write(d.buffers(r.data), s.off); err != nil {
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
	return within(r.sector, uint64(n)/sectorSize, d.im.sectors)
}

// buffers lists v in backing that is reused.
func (d *Device) buffers(v memory.Vec) [][]byte {
	d.bufs = v.AppendBuffers(d.bufs[:0])
	return d.bufs
}

func (d *Device) discard(r request) error {
	segs, err := d.segments(r, maxDiscardSegments, maxDiscard, 0)
	if err != nil {
		return err
	}
	for _, s := range segs {
		if err := d.im.discard(s.span); err != nil {
			return err
		}
	}
	d.metrics.Discards.Add(1)
	return nil
}

func (d *Device) writeZeroes(r request) error {
	segs, err := d.segments(r, maxZeroSegments, maxZero, flagUnmap)
	if err != nil {
		return err
	}
	for _, s := range segs {
		if err := d.im.zero(s.span, s.flags&flagUnmap != 0); err != nil {
			return err
		}
	}
	d.metrics.WriteZeroes.Add(1)
	return nil
}

// segments decodes and checks all ranges before any is touched.
func (d *Device) segments(r request, most int, sectors, flags uint32) ([]segment, error) {
	segs, err := segments(r.data, d.segs[:0], most)
	if err != nil {
		return nil, err
	}
	d.segs = segs
	for i := range segs {
		if err := segs[i].check(d.im.sectors, sectors, flags); err != nil {
			return nil, err
		}
	}
	return segs, nil
}
