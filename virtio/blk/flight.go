package blk

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/uring"
	"github.com/hvctl/hvctl/virtio"
)

// flight is a queue's requests in io_uring. The queue's worker never waits
// there while it serves: what takes time completes by the queue's doorbell, so
// that new requests and old ones wake it alike. Guest memory is not registered
// with the kernel (fixed buffers): that would pin all of it.
type flight struct {
	im    *image
	ring  *uring.Ring
	slots [queueSize]*slot // those in the air, by number
	free  []*slot
	kick  int // the doorbell that completions ring, -1 before the first
	up    int // requests in the air
	long  int // slots whose lists are longer than most
}

// slot is one request in the air. What the kernel was told of stays in place
// until it lands.
type slot struct {
	number uint64
	chain  virtio.Chain
	request
	span
	vec  uring.Vector
	bufs [][]byte
	long bool
	took time.Time // off the ring
}

// newFlight makes the ring of one queue. Errors wrap uring.ErrUnavailable where
// there is none.
func newFlight(im *image) (*flight, error) {
	ring, err := uring.New(queueSize)
	if err != nil {
		return nil, err
	}
	// The kernel ends a ring some time after its owner, and what is registered
	// with it: that may not be the open file that holds the lock.
	cached, err := reopen(im, 0)
	if err != nil {
		return nil, errors.Join(err, ring.Close())
	}
	defer cached.Close() // the ring keeps it open
	files := []int{int(cached.Fd())}
	if im.direct != nil {
		files = append(files, im.direct.fd)
	}
	if err := ring.RegisterFiles(files); err != nil {
		return nil, errors.Join(err, ring.Close())
	}
	f := &flight{im: im, ring: ring, kick: -1}
	for i := range queueSize {
		f.free = append(f.free, &slot{number: uint64(i)})
	}
	return f, nil
}

// fly takes off with every request there is, and lands those that are done.
func (w *worker) fly(q *virtio.Queue) error {
	f := w.flight
	if fd := q.KickFD().FD(); f.kick != fd {
		if err := f.ring.Notify(fd); err != nil {
			return err
		}
		f.kick = fd
	}
	f.ring.Quiet(true)
	told := time.Now()
	for quiet := true; ; {
		took, err := w.takeOff(q)
		if err != nil {
			return err
		}
		if err := f.ring.Submit(0); err != nil {
			return err
		}
		landed, err := w.land(q)
		if err != nil {
			return err
		}
		if took+landed == 0 {
			if !quiet {
				return nil
			}
			quiet = false
			f.ring.Quiet(false)
			continue // for what landed just before
		}
		if !quiet {
			quiet = true
			f.ring.Quiet(true)
		}
		if now := time.Now(); now.Sub(told) >= maxDelay {
			told = now
			if err := q.Flush(); err != nil {
				return err
			}
		}
	}
}

// takeOff pops what is there and prepares it. What moves no data and is no
// flush is served in place.
func (w *worker) takeOff(q *virtio.Queue) (n int, err error) {
	f := w.flight
	var now time.Time // once for what is there
	for len(f.free) > 0 {
		c, r, ok, err := w.next(q)
		if !ok || err != nil {
			return n, err
		}
		if n++; n == 1 {
			now = time.Now()
		}
		if !w.flies(r) {
			if err := w.finish(q, c, r); err != nil {
				return n, err
			}
			continue
		}
		s := f.free[len(f.free)-1]
		f.free = f.free[:len(f.free)-1]
		s.chain, s.request, s.took = c, r, now
		if err := w.prepare(s); err != nil {
			f.free = append(f.free, s)
			r.status.CopyIn([]byte{w.d.failed(err)})
			if err := q.Push(c, 1); err != nil {
				return n, err
			}
			continue
		}
		f.slots[s.number] = s
		f.up++
	}
	return n, nil
}

// flies reports whether r is for the ring. What is written to the page cache is
// not: few file systems take that without waiting, so that the ring would have a
// thread of the kernel's do it.
func (w *worker) flies(r request) bool {
	switch r.kind {
	case typeIn, typeFlush:
		return r.kind == typeFlush || r.data.Len() > 0
	case typeOut:
		return !w.d.im.readOnly && w.d.im.direct != nil && r.data.Len() > 0
	}
	return false
}

// prepare puts s into the ring, which has room for as many as there are slots.
func (w *worker) prepare(s *slot) error {
	f := w.flight
	if s.kind == typeFlush {
		w.d.metrics.Syncs.Add(1)
		f.ring.Sync(0, s.number)
		return nil
	}
	var err error
	if s.span, err = w.d.place(s.request); err != nil {
		return err
	}
	s.bufs = s.data.AppendBuffers(s.bufs[:0])
	s.vec.Set(s.bufs[:min(len(s.bufs), maxIOV)])
	file := f.im.file(s.bufs, s.off)
	if s.kind == typeIn {
		f.ring.Read(file, &s.vec, s.off, s.number)
	} else {
		f.ring.Write(file, &s.vec, s.off, s.number)
	}
	return nil
}

// land gives back what has completed.
func (w *worker) land(q *virtio.Queue) (n int, err error) {
	f := w.flight
	var now time.Time // once for what is there
	for {
		c, ok := f.ring.Next()
		if !ok {
			return n, nil
		}
		if c.Data >= queueSize || f.slots[c.Data] == nil {
			return n, fmt.Errorf("io_uring completed request %d, which was not made", c.Data)
		}
		s := f.slots[c.Data]
		f.slots[c.Data] = nil
		f.up--
		if n++; n == 1 {
			now = time.Now()
		}
		status, written := byte(statusOK), 0
		if err := w.landed(s, c); err != nil {
			status = w.d.failed(err)
		} else if s.kind == typeIn {
			written = s.data.Len()
		}
		s.status.CopyIn([]byte{status})
		w.d.metrics.took(s.kind, now.Sub(s.took))
		err := q.Push(s.chain, uint32(written+1))
		w.recycle(s)
		if err != nil {
			return n, err
		}
	}
}

// landed accounts for s, and does by system calls what the ring left undone.
func (w *worker) landed(s *slot, c uring.Completion) error {
	d := w.d
	// The kernel gives up what a thread has begun when that thread ends, as those do
	// that Go locks a goroutine to.
	again := errors.Is(c.Err(), unix.EAGAIN) || errors.Is(c.Err(), unix.EINTR) || errors.Is(c.Err(), unix.ECANCELED)
	if s.kind == typeFlush {
		err := c.Err()
		if again {
			err = d.im.flush()
		}
		if err != nil {
			return fmt.Errorf("fdatasync: %w", err)
		}
		d.metrics.Flushes.Add(1)
		return nil
	}
	moved := int(max(c.Result, 0))
	if s.kind == typeOut {
		d.im.mark(s.off, int64(moved))
	}
	if err := c.Err(); err != nil && !again {
		return fmt.Errorf("io_uring: %w", err)
	}
	if moved == 0 && !again {
		return io.ErrUnexpectedEOF // the image was truncated under us
	}
	if int64(moved) < s.n {
		rest, off := advance(s.bufs, moved), s.off+int64(moved)
		var err error
		if s.kind == typeIn {
			err = d.im.read(&w.vec, rest, off)
		} else {
			err = d.im.write(&w.vec, rest, off)
		}
		if err != nil {
			return err
		}
	}
	if s.kind == typeIn {
		d.metrics.Reads.Add(1)
		d.metrics.ReadBytes.Add(uint64(s.n))
	} else {
		d.metrics.Writes.Add(1)
		d.metrics.WriteBytes.Add(uint64(s.n))
	}
	return nil
}

// recycle frees s; a driver that once sent many buffers in each request may not
// make us keep their lists for ever.
func (w *worker) recycle(s *slot) {
	const most, longest, keepLong = 64, 256, 8
	f, n := w.flight, cap(s.bufs)
	if s.long {
		f.long--
	}
	if s.long = n > most && n <= longest && f.long < keepLong; s.long {
		f.long++
	} else if n > most {
		s.bufs, s.vec = nil, uring.Vector{}
	}
	s.vec.Clear()
	clear(s.bufs)
	s.chain, s.request = virtio.Chain{}, request{}
	f.free = append(f.free, s)
}

// DrainQueue implements virtio.Drainer: it waits for what is in the air and
// gives it back.
func (d *Device) DrainQueue(q *virtio.Queue) error {
	w := d.workers[q.Index()]
	if w.flight == nil {
		return nil
	}
	for w.flight.up > 0 {
		if err := w.flight.ring.Submit(1); err != nil {
			return err
		}
		if _, err := w.land(q); err != nil {
			return err
		}
	}
	return nil
}
