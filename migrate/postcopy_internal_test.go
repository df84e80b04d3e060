package migrate

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

const (
	aSession  = "000102030405060708090a0b0c0d0e0f"
	ramPages  = 256
	lackPages = 128 // the first of them
)

// lacking returns a bitmap of what is missing.
func lacking() [][]uint64 {
	return [][]uint64{{^uint64(0), ^uint64(0), 0, 0}}
}

// destination is a Puller in this process, on memory that it counts what it fills of.
type destination struct {
	*Puller
	t      *testing.T
	addr   string
	done   chan error
	mu     sync.Mutex
	filled map[uint64]int
	ram    []byte
}

func newDestination(t *testing.T, change func(*PullOptions)) *destination {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &destination{t: t, addr: l.Addr().String(), done: make(chan error, 1), filled: map[uint64]int{}, ram: make([]byte, ramPages*pageSize)}
	o := PullOptions{
		Session: aSession, Epoch: 7, Peer: "tcp", Pages: []uint64{ramPages}, Missing: lacking(),
		Journal: commit.File(filepath.Join(t.TempDir(), "record")), Keepalive: 300 * time.Millisecond, Stall: time.Second,
		Fill: func(_ int, page, n uint64, data []byte) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			for i := range n {
				d.filled[page+i]++
			}
			copy(d.ram[page*pageSize:], data)
			return nil
		},
	}
	if change != nil {
		change(&o)
	}
	d.Puller = NewPuller(o)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { d.done <- d.Serve(ctx, l); close(d.done) }()
	t.Cleanup(func() {
		cancel()
		for range d.done { // until it has ended
		}
	})
	return d
}

func (d *destination) dialer() *dialer {
	o := SendOptions{VM: "web", Backoff: time.Millisecond, Stall: time.Second, Keepalive: 300 * time.Millisecond}.withDefaults()
	return &dialer{
		dial: func(ctx context.Context) (net.Conn, error) {
			var n net.Dialer
			return n.DialContext(ctx, "tcp", d.addr)
		},
		hello: hello{Min: minVersion, Max: ProtocolVersion, Session: aSession}, epoch: 7, o: o,
	}
}

// honest is a source with what is missing.
func honest(d *dialer) *pageServer {
	ram := bytes.Repeat([]byte{1}, ramPages*pageSize)
	clear(ram[5*pageSize : 9*pageSize])
	for p := range ramPages {
		if p < 5 || p >= 9 {
			ram[p*pageSize] = byte(p)
		}
	}
	return newPageServer(d, []area{{pages: ramPages, ram: ram}}, lacking(), &limiter{})
}

// completes has an honest source serve what is missing still.
func (d *destination) completes() {
	d.t.Helper()
	s := honest(d.dialer())
	s.start()
	defer s.stop()
	if err := <-d.done; err != nil {
		d.t.Fatal(err)
	}
	if e := <-s.over; e != commit.GotDrained || s.report().Left != 0 {
		d.t.Errorf("%s, %+v", e, s.report())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for p := range uint64(ramPages) {
		want := 0
		if p < lackPages {
			want = 1
		}
		if d.filled[p] != want {
			d.t.Errorf("page %d was filled %d times", p, d.filled[p])
		}
	}
}

// connects says HELLO.
func (d *destination) connects(r role, change func(*hello)) (*wire.Conn, error) {
	x := d.dialer()
	h := x.hello
	h.Role = r
	if change != nil {
		change(&h)
	}
	c, _, _, err := x.greet(context.Background(), 0, h)
	if err == nil {
		d.t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func pagesFrame(runs ...wire.Run) []byte {
	b := wire.AppendRuns(nil, runs)
	for _, r := range runs {
		if !r.Zero {
			b = append(b, make([]byte, int(r.Count)*pageSize)...)
		}
	}
	return b
}

// Whatever an enemy says who plays the source, nothing is filled that was not
// missing, nothing twice, and the source that comes after him is served.
func TestEnemyAsSourceOfPages(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		typ        wire.Type
		payload    []byte
	}{
		{"a page that was not missing", "was not missing", wire.Pages, pagesFrame(wire.Run{Page: 200, Count: 1})},
		{"one among others", "was not missing", wire.Pages, pagesFrame(wire.Run{Page: 100, Count: 28, Zero: true}, wire.Run{Page: lackPages, Count: 1})},
		{"a run that ends beyond what is missing", "was not missing", wire.Pages, pagesFrame(wire.Run{Page: 120, Count: 9})},
		{"a page of no RAM", "leaves region", wire.Pages, pagesFrame(wire.Run{Page: ramPages, Count: 1})},
		{"another region", "region 3", wire.Pages, pagesFrame(wire.Run{Region: 3, Count: 1})},
		{"half a frame", "bytes", wire.Pages, []byte{1, 0, 1}},
		{"another message", "on a connection for pages", wire.Go, nil},
		{"an ABORT that is none", "ABORT", wire.Abort, []byte("{")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newDestination(t, nil)
			c, err := d.connects(roleFault, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Send(tc.typ, tc.payload); err != nil {
				t.Fatal(err)
			}
			typ, b, err := c.Recv(5 * time.Second)
			if err != nil || typ != wire.Refuse || !strings.Contains(string(b), tc.want) {
				t.Errorf("%v %s, %v; want %q", typ, b, err, tc.want)
			}
			d.completes()
		})
	}
	t.Run("pages again", func(t *testing.T) {
		d := newDestination(t, nil)
		c, err := d.connects(roleFault, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := c.Send(wire.Pages, pagesFrame(wire.Run{Page: 0, Count: 20, Zero: true}, wire.Run{Page: 20, Count: 5})); err != nil {
				t.Fatal(err)
			}
		}
		d.completes()
	})
	t.Run("strangers", func(t *testing.T) {
		d := newDestination(t, nil)
		for name, change := range map[string]func(*hello){
			"another session": func(h *hello) { h.Session = strings.Repeat("f", 32) },
			"a new machine":   func(h *hello) { h.Role = roleControl },
			"a question":      func(h *hello) { h.Role = roleFacts },
		} {
			if _, err := d.connects(rolePush, change); !errors.Is(err, ErrRefused) {
				t.Errorf("%s: %v", name, err)
			}
		}
		d.completes()
	})
}

func TestASourceThatNeverAnswersIsHungUpOn(t *testing.T) {
	d := newDestination(t, func(o *PullOptions) { o.Stall = 100 * time.Millisecond })
	c, err := d.connects(roleFault, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := []Presence{d.Fault(0, 5), d.Fault(0, 5), d.Fault(0, 200)}; got[0] != Asked || got[1] != Asked || got[2] != Never {
		t.Errorf("%v", got)
	}
	fetches := 0
	for {
		typ, _, err := c.Recv(10 * time.Second)
		if err != nil {
			break
		}
		if typ == wire.Fetch {
			fetches++
		}
	}
	if fetches > 1 {
		t.Errorf("one page was asked for %d times", fetches)
	}
	d.completes() // and is asked for again
	if a := d.Arrival(); a.Faults != 1 || a.Local != 1 || a.Max < 100*time.Millisecond || d.Fault(0, 5) != Arrived {
		t.Errorf("%+v", a)
	}
}

func TestASourceThatGivesUpEndsTheGuest(t *testing.T) {
	d := newDestination(t, nil)
	s := honest(d.dialer())
	s.limiter = &limiter{rate: 1} // nothing comes
	s.start()
	for s.report().State != "serving" {
		time.Sleep(time.Millisecond)
	}
	s.fail("no more")
	if err := <-d.done; !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "no more") {
		t.Error(err)
	}
}

// Whatever an enemy says who plays the destination, the source keeps what it has,
// and serves the one who comes after him.
func TestEnemyAsDestinationOfPages(t *testing.T) {
	fetch := func(region uint16, page uint64) func(push, fault *wire.Conn) {
		return func(push, fault *wire.Conn) {
			if fault == nil {
				_ = push.Send(wire.Missing, nil)
			} else {
				_ = fault.Send(wire.Fetch, wire.AppendFetch(nil, region, page))
			}
		}
	}
	missing := func(words ...uint64) func(push, fault *wire.Conn) {
		return func(push, _ *wire.Conn) {
			_ = wire.AppendMissing([][]uint64{words}, func(b []byte) error { return push.Send(wire.Missing, b) })
			_ = wire.AppendMissing([][]uint64{words}, func(b []byte) error { return push.Send(wire.Missing, b) })
		}
	}
	for _, tc := range []struct {
		name, want string
		do         func(push, fault *wire.Conn)
	}{
		{"says nothing", "timeout", func(*wire.Conn, *wire.Conn) {}},
		{"lacks what was sent", "were sent before", missing(0, 0, 1)},
		{"lacks the same again and again", "nothing new", missing(1)},
		{"asks for what was sent", "was sent before", fetch(0, 200)},
		{"asks for no RAM", "none of the RAM", fetch(0, ramPages)},
		{"asks for another region", "none of the RAM", fetch(9, 0)},
		{"asks for nothing", "FETCH", func(push, fault *wire.Conn) {
			if fault == nil {
				_ = push.Send(wire.Missing, nil)
			} else {
				_ = fault.Send(wire.Fetch, nil)
			}
		}},
		{"says it runs", "instead of MISSING", func(push, _ *wire.Conn) { _ = push.Send(wire.Running, nil) }},
		{"is drained, with garbage", "DRAINED", func(push, _ *wire.Conn) { _ = push.Send(wire.Drained, []byte(`{"x":1}`)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			conns := make(chan *wire.Conn, 2)
			go func() {
				for {
					nc, err := l.Accept()
					if err != nil {
						return
					}
					c := wire.Accept(nc, time.Second)
					if _, _, err := c.Recv(time.Second); err == nil {
						_ = sendJSON(c, wire.Welcome, welcome{Version: ProtocolVersion})
					}
					select {
					case conns <- c:
					default:
						_ = c.Close()
					}
				}
			}()
			d := newDestination(t, nil)
			good := d.addr
			d.addr = l.Addr().String()
			x := d.dialer()
			x.o.Backoff, x.o.Stall, x.o.Keepalive = 100*time.Millisecond, 200*time.Millisecond, 100*time.Millisecond
			var mu sync.Mutex
			to := d.addr
			x.dial = func(ctx context.Context) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				var n net.Dialer
				return n.DialContext(ctx, "tcp", to)
			}
			s := honest(x)
			s.start()
			defer s.stop()
			push := <-conns
			defer func() { _ = push.Close() }() // not before, by the garbage collector
			tc.do(push, nil)
			select {
			case fault := <-conns:
				defer func() { _ = fault.Close() }()
				tc.do(push, fault)
			case <-time.After(100 * time.Millisecond): // it did not get so far
			}
			for end := time.Now().Add(10 * time.Second); s.report().State != "broken"; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%+v", s.report())
				}
			}
			why := s.report().Why
			if !strings.Contains(why, tc.want) {
				t.Errorf("%q, want %q", why, tc.want)
			}
			mu.Lock()
			to = good
			mu.Unlock()
			_ = l.Close()
			if err := <-d.done; err != nil {
				t.Error(err)
			}
			if e := <-s.over; e != commit.GotDrained {
				t.Error(e)
			}
		})
	}
}
