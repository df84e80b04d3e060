package console

import (
	"sync"

	"github.com/hvctl/hvctl/virtio"
)

// input is what lies between Feed and the receive queue.
type input struct {
	mu     sync.Mutex // guards what follows
	room   sync.Cond  // pend got shorter, or closed
	pend   []byte     // at most inputBuffer
	closed bool
}

func (i *input) init() { i.room.L = &i.mu }

// put takes some of p, waiting for room for at least a byte; 0 when closed.
func (i *input) put(p []byte) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(i.pend) >= inputBuffer && !i.closed {
		i.room.Wait()
	}
	if i.closed {
		return 0
	}
	n := min(len(p), inputBuffer-len(i.pend))
	i.pend = append(i.pend, p[:n]...)
	return n
}

// serve gives the driver what was typed, as far as it has buffers.
func (i *input) serve(q *virtio.Queue, m *Metrics) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(i.pend) > 0 {
		c, ok, err := q.Pop()
		if err != nil || !ok {
			return err
		}
		if c.Readable.Len() > 0 || c.Writable.Len() == 0 {
			return virtio.GuestErrorf("console input buffer with %d readable and %d writable bytes", c.Readable.Len(), c.Writable.Len())
		}
		n := c.Writable.CopyIn(i.pend)
		i.pend = i.pend[:copy(i.pend, i.pend[n:])]
		i.room.Broadcast()
		m.In.Add(uint64(n))
		if err := q.Push(c, uint32(n)); err != nil {
			return err
		}
	}
	return nil
}

func (i *input) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	i.room.Broadcast()
}
