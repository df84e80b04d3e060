package migrate_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

const session = "000102030405060708090a0b0c0d0e0f"

// enemy is a source that says what it likes, in well-formed frames.
type enemy struct {
	t       testing.TB
	r       *rig
	control *wire.Conn
	data    *wire.Conn
}

func (e *enemy) connect(channel uint16, epoch uint32) *wire.Conn {
	e.t.Helper()
	c, err := e.r.dial(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = c.Close() })
	return wire.NewConn(c, channel, epoch, time.Second)
}

// say sends a frame; a destination that has hung up is no surprise.
func say(c *wire.Conn, t wire.Type, v any) {
	b, ok := v.([]byte)
	if !ok {
		b, _ = json.Marshal(v)
	}
	_ = c.Send(t, b)
}

// hears returns the next frame's type and text, or why there is none.
func hears(c *wire.Conn) string {
	t, p, err := c.Recv(5 * time.Second)
	if err != nil {
		return "hung up"
	}
	return t.String() + " " + string(p)
}

type dict map[string]any

func hello(role string, more dict) dict {
	h := dict{"min": 1, "max": 1, "role": role, "session": session}
	maps.Copy(h, more)
	return h
}

func (e *enemy) offer() dict {
	var regions []dict
	for _, g := range e.r.dst.Regions() {
		regions = append(regions, dict{"gpa": g.GPA, "size": g.Size})
	}
	return dict{"streams": 1, "regions": regions, "description": dict{}}
}

// open goes as far as an honest source would: prepared, one data connection.
func (e *enemy) open() {
	e.t.Helper()
	e.control = e.connect(0, 1)
	say(e.control, wire.Hello, hello("control", nil))
	if got := hears(e.control); !strings.HasPrefix(got, "WELCOME") {
		e.t.Fatal(got)
	}
	say(e.control, wire.Offer, e.offer())
	if got := hears(e.control); !strings.HasPrefix(got, "PREPARED") {
		e.t.Fatal(got)
	}
	e.data = e.connect(1, 1)
	say(e.data, wire.Hello, hello("data", nil))
	if got := hears(e.data); !strings.HasPrefix(got, "WELCOME") {
		e.t.Fatal(got)
	}
}

func le32(v ...uint32) (b []byte) {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

func finalFrame(round uint32, state []byte) []byte {
	b := binary.LittleEndian.AppendUint64(le32(round), uint64(len(state)))
	return append(b, le32(wire.CRC(0, state))...)
}

// Whatever an enemy says in the first frames, he is told why not, or hung up
// on, and the next source is served.
func TestFirstWordsOfAnEnemy(t *testing.T) {
	r := newRig(t, func(r *rig) { quick(r); r.receive.Linger = 20 * time.Millisecond })
	for _, tc := range []struct {
		name  string
		first func(e *enemy, c *wire.Conn)
		want  string
	}{
		{"no HELLO", func(e *enemy, c *wire.Conn) { say(c, wire.Go, []byte{}) }, "hung up"},
		{"no JSON", func(e *enemy, c *wire.Conn) { say(c, wire.Hello, []byte("hello")) }, `"protocol"`},
		{"unknown field", func(e *enemy, c *wire.Conn) { say(c, wire.Hello, hello("control", dict{"x": 1})) }, "unknown field"},
		{"two values", func(e *enemy, c *wire.Conn) { say(c, wire.Hello, []byte(`{}{}`)) }, "bytes after the value"},
		{"newer version only", func(e *enemy, c *wire.Conn) { say(c, wire.Hello, hello("control", dict{"min": 3, "max": 4})) }, "protocol versions 3 to 4"},
		{"path as session", func(e *enemy, c *wire.Conn) {
			say(c, wire.Hello, hello("query", dict{"session": "../../../../../../etc/passwd/abcd"}))
		}, "32 lower-case"},
		{"stream out of range", func(e *enemy, c *wire.Conn) { say(c, wire.Hello, hello("data", dict{"stream": 99})) }, "stream 99"},
		{"long name", func(e *enemy, c *wire.Conn) {
			say(c, wire.Hello, hello("control", dict{"vm": strings.Repeat("x", 300)}))
		}, "more than 255"},
		{"inquiry where nothing is told", func(e *enemy, c *wire.Conn) { say(c, wire.Hello, hello("facts", nil)) }, `"facts"`},
		{"unknown role", func(e *enemy, c *wire.Conn) { say(c, wire.Hello, hello("root", nil)) }, "unknown role"},
		{"data of no session", func(e *enemy, c *wire.Conn) { say(c, wire.Hello, hello("data", nil)) }, "no such session"},
		{"resume of no session", func(e *enemy, c *wire.Conn) { say(c, wire.Hello, hello("control", dict{"resume": true})) }, "no such session"},
		{"question that is none", func(e *enemy, c *wire.Conn) {
			say(c, wire.Hello, hello("query", nil))
			_ = hears(c)
			say(c, wire.Go, []byte{})
		}, "no question"},
		{"no streams", func(e *enemy, c *wire.Conn) { e.bid(c, dict{"streams": 0}) }, "0 streams"},
		{"a million streams", func(e *enemy, c *wire.Conn) { e.bid(c, dict{"streams": 1000000}) }, "1000000 streams"},
		{"no regions", func(e *enemy, c *wire.Conn) { e.bid(c, dict{"regions": []dict{}}) }, "0 regions"},
		{"huge description", func(e *enemy, c *wire.Conn) { e.bid(c, dict{"description": strings.Repeat("x", 3<<19)}) }, "out of bounds"},
		{"other RAM", func(e *enemy, c *wire.Conn) { e.bid(c, dict{"regions": []dict{{"gpa": 0, "size": uint64(1) << 62}}}) }, "regions of RAM"},
		{"no OFFER", func(e *enemy, c *wire.Conn) {
			say(c, wire.Hello, hello("control", nil))
			_ = hears(c)
			say(c, wire.Final, []byte{})
		}, "instead of OFFER"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := &enemy{t: t, r: r}
			c := e.connect(0, 1)
			tc.first(e, c)
			if got := hears(c); !strings.Contains(got, tc.want) {
				t.Errorf("the destination says %q, want %q", got, tc.want)
			}
		})
	}
	_, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
	for errors.Is(err, migrate.ErrRefused) { // refused machines are freed first
		_, err = migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
	}
	r.judge(t, err)
	if err != nil {
		t.Error(err)
	}
}

func (e *enemy) bid(c *wire.Conn, change dict) {
	say(c, wire.Hello, hello("control", nil))
	_ = hears(c)
	o := e.offer()
	maps.Copy(o, change)
	say(c, wire.Offer, o)
}

// An enemy inside a session cannot make the destination run anything, write
// outside the RAM, or take more memory than was agreed.
func TestEnemyInsideASession(t *testing.T) {
	pages := func(runs ...wire.Run) []byte {
		b := wire.AppendRuns(nil, runs)
		for _, r := range runs {
			if !r.Zero {
				b = append(b, make([]byte, int(r.Count)*memory.PageSize)...)
			}
		}
		return b
	}
	for _, tc := range []struct {
		name string
		do   func(e *enemy)
	}{
		{"GO before READY", func(e *enemy) { say(e.control, wire.Go, []byte{}) }},
		{"pages outside the RAM", func(e *enemy) { say(e.data, wire.Pages, pages(wire.Run{Count: 1, Page: 1 << 40})) }},
		{"pages of no region", func(e *enemy) { say(e.data, wire.Pages, pages(wire.Run{Region: 7, Count: 1})) }},
		{"pages on the control connection", func(e *enemy) { say(e.control, wire.Pages, pages(wire.Run{Count: 1})) }},
		{"state on a data connection", func(e *enemy) { say(e.data, wire.State, []byte("x")) }},
		{"unknown mandatory frame", func(e *enemy) { say(e.control, wire.Type(99), []byte{}) }},
		{"ROUND of one byte", func(e *enemy) { say(e.data, wire.Round, []byte{1}) }},
		{"FINAL of one byte", func(e *enemy) { say(e.control, wire.Final, []byte{1}) }},
		{"state too long", func(e *enemy) {
			for range wire.MaxState/wire.MaxPayload + 1 {
				say(e.control, wire.State, make([]byte, wire.MaxPayload))
			}
		}},
		{"state shorter than said", func(e *enemy) {
			say(e.data, wire.Round, le32(1))
			say(e.control, wire.Final, finalFrame(1, []byte("abc")))
		}},
		{"state that is none", func(e *enemy) {
			say(e.control, wire.State, []byte("nonsense"))
			say(e.data, wire.Round, le32(1))
			say(e.control, wire.Final, finalFrame(1, []byte("nonsense")))
		}},
		{"a billion sections", func(e *enemy) {
			say(e.control, wire.State, le32(1<<30))
			say(e.data, wire.Round, le32(1))
			say(e.control, wire.Final, finalFrame(1, le32(1<<30)))
		}},
		{"FINAL twice", func(e *enemy) {
			say(e.control, wire.Final, finalFrame(9, nil))
			say(e.control, wire.Final, finalFrame(9, nil))
		}},
		{"second data connection of one stream", func(e *enemy) {
			c := e.connect(1, 1)
			say(c, wire.Hello, hello("data", nil))
			if got := hears(c); !strings.Contains(got, "is open already") {
				e.t.Errorf("the destination says %q", got)
			}
		}},
		{"data connection of a stream that was not offered", func(e *enemy) {
			c := e.connect(2, 1)
			say(c, wire.Hello, hello("data", dict{"stream": 1}))
			if got := hears(c); !strings.Contains(got, "REFUSE") {
				e.t.Errorf("the destination says %q", got)
			}
		}},
		{"data connection of another epoch", func(e *enemy) {
			c := e.connect(1, 2)
			say(c, wire.Hello, hello("data", nil))
			if got := hears(c); !strings.Contains(got, "no such session") {
				e.t.Errorf("the destination says %q", got)
			}
		}},
		{"question in the middle", func(e *enemy) {
			c := e.connect(0, 1)
			say(c, wire.Hello, hello("query", nil))
			_ = hears(c)
			say(c, wire.Query, []byte{})
			if got := hears(c); !strings.HasPrefix(got, "REVOKED") {
				e.t.Errorf("the destination says %q", got)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(r *rig) { quick(r); r.receive.Linger = 50 * time.Millisecond })
			e := &enemy{t: t, r: r}
			e.open()
			tc.do(e)
			_ = e.control.Close()
			o := <-r.receiver.Outcomes()
			if o.State == commit.Running || o.Destination != nil || o.Err == nil {
				t.Errorf("outcome %+v", o)
			}
			if got := r.world.runners(); len(got) != 1 || got[0] != "source" {
				t.Errorf("%v runs", got)
			}
		})
	}
}

// tape is a connection that only keeps what is written.
type tape struct {
	net.Conn
	bytes.Buffer
}

func (t *tape) Write(p []byte) (int, error)      { return t.Buffer.Write(p) }
func (t *tape) Read([]byte) (int, error)         { return 0, io.EOF }
func (t *tape) Close() error                     { return nil }
func (t *tape) SetWriteDeadline(time.Time) error { return nil }

// recording returns the bytes of both connections of a session by this name that
// brings m, up to the point where READY is due.
func recording(t testing.TB, m *machine, name string) (control, data []byte) {
	t.Helper()
	sections, err := m.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	state, err := wire.AppendSections(nil, sections)
	if err != nil {
		t.Fatal(err)
	}
	e := &enemy{r: &rig{dst: m}}
	var ct, dt tape
	c, d := wire.NewConn(&ct, 0, 1, time.Second), wire.NewConn(&dt, 1, 1, time.Second)
	say(c, wire.Hello, hello("control", dict{"session": name}))
	say(c, wire.Offer, e.offer())
	say(c, wire.State, state)
	say(c, wire.Final, finalFrame(1, state))
	say(d, wire.Hello, hello("data", dict{"session": name}))
	for i, g := range m.Regions() {
		for p := range g.Size / page {
			b := wire.AppendRuns(nil, []wire.Run{{Region: uint16(i), Page: p, Count: 1}})
			say(d, wire.Pages, append(b, g.Bytes[p*page:(p+1)*page]...))
		}
	}
	say(d, wire.Round, le32(1))
	return ct.Bytes(), dt.Bytes()
}

// replay sends both recordings and reports whether READY came; patience is how
// long to wait for every word of the destination.
func replay(t testing.TB, r *rig, control, data []byte, patience time.Duration) (ready bool) {
	t.Helper()
	for { // until the session before has ended
		ready, busy := replayOnce(t, r, control, data, patience)
		if !busy {
			return ready
		}
	}
}

func replayOnce(t testing.TB, r *rig, control, data []byte, patience time.Duration) (ready, busy bool) {
	t.Helper()
	c, err := r.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = c.Write(control)
	wc := wire.NewConn(c, 0, 1, time.Second)
	for {
		// A destination that waits for the missing end is cut off; one that found the
		// damage has hung up by then.
		typ, text, err := wc.Recv(patience)
		if err != nil || typ == wire.Refuse {
			return false, strings.Contains(string(text), `"busy"`)
		}
		if typ == wire.Prepared {
			break
		}
	}
	d, err := r.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	_, _ = d.Write(data)
	hungUp := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, d)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond)) // last words
		close(hungUp)
	}()
	for {
		typ, _, err := wc.Recv(patience)
		ready = err == nil && typ == wire.Ready
		if err != nil || ready || typ == wire.Refuse {
			break
		}
	}
	_, _ = d.Close(), c.Close()
	<-hungUp
	return ready, false
}

// A thousand damaged streams: a recorded session, replayed with one bit
// changed, or with an end that is missing. READY never comes, and the whole
// recording is accepted after all that.
func TestDamagedStreamsNeverGetReady(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	const small = 4 * page
	r := newRig(t, func(r *rig) {
		quick(r)
		r.receive.Linger, r.receive.Go = time.Millisecond, time.Millisecond
		r.receive.Stall, r.receive.Keepalive = 1500*time.Millisecond, 600*time.Millisecond
		r.receive.Prepare = func(context.Context, migrate.Offer) (migrate.Destination, error) {
			return makeMachine(newWorld(), "destination", small)
		}
		r.receive.Drop = func(d migrate.Destination) { _ = d.(*machine).g.Close() }
	})
	m := newMachine(t, newWorld(), "source", small)
	fill(m.g)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	go func() { // they are of no interest, but somebody has to take them
		for t.Context().Err() == nil {
			select {
			case <-r.receiver.Outcomes():
			case <-t.Context().Done():
			}
		}
	}()
	// What is left of a session's connections must not be heard in the next one:
	// each has a name of its own.
	for i := range 1000 {
		c, d := recording(t, m, fmt.Sprintf("%032x", i))
		which := &d
		if rng.IntN(2) == 0 {
			which = &c
		}
		at, cut := rng.IntN(len(*which)), rng.IntN(10) == 0
		if cut {
			*which = (*which)[:at]
		} else {
			(*which)[at] ^= 1 << rng.IntN(8)
		}
		if replay(t, r, c, d, 40*time.Millisecond) {
			t.Fatalf("READY after damage at %d (cut off: %v, control: %v)", at, cut, which == &c)
		}
	}
	if c, d := recording(t, m, session); !replay(t, r, c, d, 5*time.Second) {
		t.Error("the undamaged recording was refused: the test shows nothing")
	}
}

// fakeDestination answers a source by a script: what it says once HELLO, and
// then OFFER, have come.
func TestEnemyAsDestination(t *testing.T) {
	well := dict{"version": 1}
	for _, tc := range []struct {
		name    string
		control func(c *wire.Conn)
	}{
		{"says nothing", func(c *wire.Conn) { _ = hears(c) }},
		{"chooses version 9", func(c *wire.Conn) { say(c, wire.Welcome, dict{"version": 9}) }},
		{"says READY first", func(c *wire.Conn) { say(c, wire.Ready, []byte{}) }},
		{"says RUNNING to OFFER", func(c *wire.Conn) { say(c, wire.Welcome, well); _ = hears(c); say(c, wire.Running, []byte{}) }},
		{"says READY while pages come", func(c *wire.Conn) { prepared(c, well); say(c, wire.Ready, []byte{}) }},
		{"says RUNNING while pages come", func(c *wire.Conn) { prepared(c, well); say(c, wire.Running, []byte{}) }},
		{"has applied what was not sent", func(c *wire.Conn) {
			prepared(c, well)
			say(c, wire.Applied, append(le32(1), bytes.Repeat([]byte{0xff}, 8)...))
		}},
		{"APPLIED of one byte", func(c *wire.Conn) { prepared(c, well); say(c, wire.Applied, []byte{1}) }},
		{"refuses with an escape sequence", func(c *wire.Conn) {
			say(c, wire.Refuse, dict{"code": "\x1b[2J", "message": strings.Repeat("x", 5000)})
		}},
		{"sends garbage", func(c *wire.Conn) { _, _ = c.Conn.Write(bytes.Repeat([]byte("garbage"), 1000)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			go func() {
				for {
					nc, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer func() { _ = nc.Close() }()
						c := wire.Accept(nc, time.Second)
						if typ, _, err := c.Recv(time.Second); err != nil || typ != wire.Hello {
							return
						}
						if c.Channel() == 0 {
							tc.control(c)
						} else {
							say(c, wire.Welcome, well)
						}
						for err == nil {
							_, _, err = c.Recv(time.Second)
						}
					}()
				}
			}()
			r := newRig(t, func(r *rig) { quick(r); r.send.Streams, r.send.Reconnects = 1, 1 })
			var d net.Dialer
			dial := func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", l.Addr().String()) }
			_, err = migrate.Send(t.Context(), r.src, dial, r.journal, r.send)
			if err == nil || errors.Is(err, migrate.ErrInDoubt) || strings.ContainsRune(err.Error(), 0x1b) || len(err.Error()) > 2000 {
				t.Errorf("error %.3000q", fmt.Sprint(err))
			}
			r.judge(t, err)
			if _, err := r.journal.Load(); !errors.Is(err, commit.ErrNoRecord) {
				t.Errorf("a record was written: %v", err)
			}
		})
	}
}

// prepared goes on to PREPARED.
func prepared(c *wire.Conn, well dict) {
	say(c, wire.Welcome, well)
	_ = hears(c)
	say(c, wire.Prepared, []byte{})
}
