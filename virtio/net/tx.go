package net

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/virtio"
)

// flushEvery is how many frames are sent before the driver is told, while more
// keep coming.
const flushEvery = 64

// sender serves one transmit queue.
type sender struct {
	d *Device
	b Backend

	q      *virtio.Queue
	err    error
	run    func(Frames) bool // s.drain, bound once
	bufs   [][]byte
	bounce []byte // for frames in more pieces than one call takes
}

func (s *sender) init(d *Device, b Backend) {
	s.d, s.b = d, b
	s.run = s.drain
}

// serve sends what the driver has offered.
func (s *sender) serve(ctx context.Context, q *virtio.Queue) error {
	s.q, s.err = q, nil
	// Transmit's own error is the end of ctx or of the backend; of the latter
	// the receiver makes a pulled cable.
	_ = s.b.Transmit(ctx, s.run)
	return s.err
}

// drain sends frames until the ring is empty (true) or the backend is full
// (false: wait for room).
func (s *sender) drain(fr Frames) (done bool) {
	for n := 1; ; n++ {
		c, ok, err := s.q.Pop()
		if err != nil || !ok {
			s.err = err
			return true
		}
		if !s.send(fr, c) {
			if s.err = s.q.Unpop(c); s.err == nil {
				s.err = s.q.Flush()
			}
			return s.err != nil
		}
		if s.err = s.q.Push(c, 0); s.err != nil {
			return true
		}
		if n%flushEvery == 0 {
			if s.err = s.q.Flush(); s.err != nil {
				return true
			}
		}
	}
}

// send passes one frame on, or drops it; false means there is no room now.
func (s *sender) send(fr Frames, c virtio.Chain) bool {
	m := &s.d.metrics
	n := c.Readable.Len()
	if n < minFrame || n > maxFrame || c.Writable.Len() > 0 {
		m.TxBad.Add(1)
		return true
	}
	if !s.d.up.Load() {
		m.TxDropped.Add(1)
		return true
	}
	s.bufs = c.Readable.AppendBuffers(s.bufs[:0])
	if len(s.bufs) > maxIovecs {
		if s.bounce == nil {
			s.bounce = make([]byte, maxFrame)
		}
		c.Readable.CopyOut(s.bounce[:n])
		s.bufs = append(s.bufs[:0], s.bounce[:n])
	}
	switch _, err := fr.Writev(s.bufs); {
	case err == nil:
		m.TxPackets.Add(1)
		m.TxBytes.Add(uint64(n - HeaderLen))
	case errors.Is(err, unix.EAGAIN):
		return false
	case errors.Is(err, unix.EINVAL): // the kernel refuses the header
		m.TxBad.Add(1)
	default:
		m.TxDropped.Add(1)
	}
	return true
}
