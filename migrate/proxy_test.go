package migrate_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate/wire"
)

// fault is what the proxy does to a frame.
type fault string

const (
	drop      fault = "drop"
	delay     fault = "delay"
	repeat    fault = "repeat"
	flip      fault = "flip a bit of"
	flipHead  fault = "flip a bit of the header of"
	cut       fault = "cut the connection before"
	cutAfter  fault = "cut the connection after"
	partition fault = "cut the network before"
	isolate   fault = "cut the network after"
)

// proxy is a link that understands frames. The nth frame of a type (from 0,
// over all connections) meets a fault.
type proxy struct {
	ln      net.Listener
	target  string
	network string

	mu    sync.Mutex
	typ   wire.Type
	nth   int
	fault fault
	hook  func() // called when the frame comes, before the fault
	met   bool
	seen  map[wire.Type]int
	down  bool
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func newProxy(t testing.TB, target net.Addr, typ wire.Type, nth int, f fault) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, network: target.Network(), target: target.String(), typ: typ, nth: nth, fault: f, seen: map[wire.Type]int{}, conns: map[net.Conn]bool{}}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		_ = ln.Close()
		p.cutAll(true)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) serve() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.join(c) })
	}
}

// join carries frames between c and the target, until one of them ends.
func (p *proxy) join(c net.Conn) {
	d, err := net.Dial(p.network, p.target)
	if err != nil {
		_ = c.Close()
		return
	}
	p.mu.Lock()
	p.conns[c], p.conns[d] = true, true
	down := p.down
	p.mu.Unlock()
	var wg sync.WaitGroup
	if !down {
		wg.Go(func() { p.carry(c, d); _, _ = c.Close(), d.Close() })
		wg.Go(func() { p.carry(d, c); _, _ = c.Close(), d.Close() })
		wg.Wait()
	}
	_, _ = c.Close(), d.Close()
	p.mu.Lock()
	delete(p.conns, c)
	delete(p.conns, d)
	p.mu.Unlock()
}

func (p *proxy) carry(from, to net.Conn) {
	head := make([]byte, wire.HeaderSize)
	for {
		if _, err := io.ReadFull(from, head); err != nil {
			return
		}
		frame := make([]byte, wire.HeaderSize+int(binary.LittleEndian.Uint32(head[12:])))
		copy(frame, head)
		if _, err := io.ReadFull(from, frame[wire.HeaderSize:]); err != nil {
			return
		}
		times := 1
		f, hook := p.meet(wire.Type(binary.LittleEndian.Uint16(head[4:])))
		if hook != nil {
			hook()
		}
		switch f {
		case drop:
			times = 0
		case delay:
			time.Sleep(150 * time.Millisecond) // the fault itself, not a wait for something
		case repeat:
			times = 2
		case flip:
			frame[len(frame)-1] ^= 0x10 // of the header, when there is no payload
		case flipHead:
			frame[17] ^= 1
		case cut:
			return
		case partition:
			p.cutAll(true)
			return
		default: // something happens afterwards, or nothing
		}
		for range times {
			if _, err := to.Write(frame); err != nil {
				return
			}
		}
		switch f {
		case cutAfter:
			return
		case isolate:
			time.Sleep(20 * time.Millisecond) // let the frame arrive
			p.cutAll(true)
			return
		default: // it happened before
		}
	}
}

// meet counts a frame and returns what shall happen to it.
func (p *proxy) meet(t wire.Type) (fault, func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.seen[t]
	p.seen[t]++
	if t != p.typ || n != p.nth {
		return "", nil
	}
	p.met = true
	return p.fault, p.hook
}

// wasMet tells whether the frame came that was to meet the fault.
func (p *proxy) wasMet() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.met
}

// counts says how many frames of each type came so far.
func (p *proxy) counts() map[wire.Type]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.seen)
}

// cutAll closes all connections and, if down, refuses new ones from now on.
func (p *proxy) cutAll(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	for c := range p.conns {
		_ = c.Close()
	}
}

// heal lets connections through again.
func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

func (p *proxy) String() string { return fmt.Sprintf("%s %v %d", p.fault, p.typ, p.nth) }
