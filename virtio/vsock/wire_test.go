package vsock_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio/vsock"
)

// wire joins two devices: what one sends to its guest, the other gets from its
// own. So a Dial on one device reaches a Listen on the other, and every byte
// has gone through both directions of the protocol.
type wire struct {
	a, b *vsock.Device
}

// port is one device's driver, as the wire uses it.
type port struct {
	g       *guest
	pending []packet // for this device
}

// newWire makes one whose receive buffers have 4 KiB, as Linux's have.
func newWire(t testing.TB) wire {
	t.Helper()
	w := wire{newDevice(t), newDevice(t)}
	a, b := &port{g: newGuest(t, w.a, 100)}, &port{g: newGuest(t, w.b, 100)}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for idle := time.Duration(0); ; {
			select {
			case <-stop:
				return
			default:
			}
			moved := a.pump(b)
			moved = b.pump(a) || moved
			switch {
			case moved:
				idle = 0
			case idle < 50*time.Microsecond:
				idle += time.Microsecond
				runtime.Gosched()
			default:
				time.Sleep(idle)
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
	return w
}

// pump moves what the device of p has sent to peer, and what waits for p.
func (p *port) pump(peer *port) (moved bool) {
	g := p.g
	var again []memory.GPA
	for {
		u, ok := g.d.Queue(rx).TryWait()
		if !ok {
			break
		}
		x := parsePacket(u.In[:u.Written])
		x.src, x.dst = cid, 2
		peer.pending = append(peer.pending, x)
		again = append(again, g.rxAt[u.Head])
		delete(g.rxAt, u.Head)
	}
	for _, a := range again {
		g.addRx(a)
	}
	if len(again) > 0 {
		g.d.Queue(rx).Kick()
	}
	g.reclaim(false)
	n := min(len(p.pending), len(g.slots))
	for _, x := range p.pending[:n] {
		g.offer(x)
	}
	p.pending = p.pending[n:]
	return n > 0 || len(again) > 0
}
