package console

import (
	"io"
	"sync"
	"time"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// closeTimeout is how long Close waits for Out to take what is left.
const closeTimeout = time.Second

// output is what lies between the transmit queue and Out.
type output struct {
	w       io.Writer
	limit   int
	wait    bool
	metrics *Metrics
	kick    func() // there is room again
	done    chan struct{}

	sent int // bytes taken of the chain at the head of the ring; the worker's

	mu     sync.Mutex // guards what follows
	more   sync.Cond  // pend or closed changed
	pend   []byte     // at most limit
	full   bool       // the worker waits for room
	closed bool
}

func (o *output) init(opts Options, m *Metrics, kick func()) {
	o.w, o.limit, o.wait, o.metrics, o.kick = opts.Out, opts.Buffer, opts.Wait, m, kick
	o.more.L = &o.mu
	o.done = make(chan struct{})
	if o.w == nil {
		o.w = io.Discard
	}
}

// serve takes the driver's output until there is none, or no room for it.
func (o *output) serve(q *virtio.Queue) error {
	for {
		c, ok, err := q.Pop()
		if err != nil || !ok {
			return err
		}
		// o.sent may be more than the chain holds when the driver changed it
		// while it was back in the ring: then nothing is left of it.
		if rest := c.Readable.Drop(o.sent); rest.Len() > 0 {
			n := o.put(rest)
			if n < rest.Len() {
				o.sent += n
				return q.Unpop(c)
			}
		}
		o.sent = 0
		if err := q.Push(c, 0); err != nil {
			return err
		}
	}
}

// put appends v to what waits and returns how much of it was taken: all unless
// the guest has to wait.
func (o *output) put(v memory.Vec) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	total := v.Len()
	if o.wait {
		v, _ = v.Split(max(o.limit-len(o.pend), 0))
		total = v.Len()
		o.full = o.full || len(o.pend)+total == o.limit
	} else {
		if skip := v.Len() - o.limit; skip > 0 {
			v = v.Drop(skip)
			o.metrics.Dropped.Add(uint64(skip))
		}
		if over := len(o.pend) + v.Len() - o.limit; over > 0 {
			o.pend = o.pend[:copy(o.pend, o.pend[over:])]
			o.metrics.Dropped.Add(uint64(over))
		}
	}
	old := len(o.pend)
	o.pend = append(o.pend, make([]byte, v.Len())...)
	v.CopyOut(o.pend[old:])
	o.metrics.Out.Add(uint64(total))
	o.more.Signal()
	return total
}

// pump writes what waits to Out until the end. When Out fails, output goes
// nowhere from then on.
func (o *output) pump() {
	defer close(o.done)
	var buf []byte
	w := o.w
	for {
		o.mu.Lock()
		for len(o.pend) == 0 && !o.closed {
			o.more.Wait()
		}
		if len(o.pend) == 0 {
			o.mu.Unlock()
			return
		}
		buf, o.pend = o.pend, buf[:0]
		full := o.full
		o.full = false
		o.mu.Unlock()
		if full {
			o.kick()
		}
		if n, err := w.Write(buf); err != nil {
			o.metrics.Dropped.Add(uint64(len(buf) - max(n, 0)))
			w = io.Discard
		}
	}
}

func (o *output) close() {
	o.mu.Lock()
	o.closed = true
	o.more.Signal()
	o.mu.Unlock()
	select {
	case <-o.done:
	case <-time.After(closeTimeout):
	}
}
