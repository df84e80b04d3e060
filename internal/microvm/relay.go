package microvm

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// relay stands between a vCPU that writes to the serial port and whoever is
// attached, who may be slow. Up to relaySize bytes wait; then the vCPU does,
// so that nothing is lost to a reader who is merely slower than the guest. A
// reader that takes nothing for relayPatience loses what comes until it reads
// again, and is told how much: a guest must not hang for want of a reader.
type relay struct {
	out io.Writer

	mu        sync.Mutex
	changed   *sync.Cond // signalled on every change of what follows
	buf       []byte
	lost      int
	taken     uint64 // writes that out has finished
	abandoned bool   // nobody waits any more
	closed    bool
	done      chan struct{} // closed when the pump has ended
}

const (
	relaySize     = 64 << 10
	relayPatience = 2 * time.Second
)

func newRelay(out io.Writer) *relay {
	r := &relay{out: out, done: make(chan struct{})}
	r.changed = sync.NewCond(&r.mu)
	go r.pump()
	return r
}

// Write implements io.Writer. It never fails, and blocks for relayPatience at
// most.
func (r *relay) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.buf)+len(p) > relaySize && r.lost == 0 {
		r.wait(func() bool { return len(r.buf)+len(p) <= relaySize })
	}
	if r.closed || r.lost > 0 || len(r.buf)+len(p) > relaySize {
		r.lost += len(p)
	} else {
		r.buf = append(r.buf, p...)
	}
	r.changed.Broadcast()
	return len(p), nil
}

// wait waits for cond, as long as out takes something every relayPatience. mu
// is held.
func (r *relay) wait(cond func() bool) {
	for !cond() && !r.abandoned && !r.closed {
		before, late := r.taken, false
		t := time.AfterFunc(relayPatience, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			late = true
			r.changed.Broadcast()
		})
		for !cond() && !r.abandoned && !r.closed && !late && r.taken == before {
			r.changed.Wait()
		}
		t.Stop()
		if late && r.taken == before {
			return
		}
	}
}

// pump hands on what waits.
func (r *relay) pump() {
	defer close(r.done)
	for {
		r.mu.Lock()
		for len(r.buf) == 0 && r.lost == 0 && !r.closed {
			r.changed.Wait()
		}
		p, lost := r.buf, r.lost
		r.buf, r.lost = nil, 0
		closed := r.closed
		r.mu.Unlock()
		if len(p) == 0 && lost == 0 && closed {
			return
		}
		if lost > 0 {
			p = fmt.Appendf(p, "\r\n[%d bytes lost: the reader was too slow]\r\n", lost)
		}
		_, _ = r.out.Write(p) // a console nobody can read is not the guest's problem
		r.mu.Lock()
		r.taken++
		r.changed.Broadcast()
		r.mu.Unlock()
	}
}

// abandon lets go of a Write that waits, now and later.
func (r *relay) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.abandoned = true
	r.changed.Broadcast()
}

// finish takes no more, and waits until out has taken what there was, as long
// as it takes something every relayPatience.
func (r *relay) finish() {
	r.mu.Lock()
	r.closed = true
	r.changed.Broadcast()
	r.mu.Unlock()
	select {
	case <-r.done:
	case <-time.After(relayPatience):
	}
}
