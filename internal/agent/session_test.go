package agent_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/guestproto"
)

// pipeTransport hands out the host's ends of pipes that a test opens.
type pipeTransport struct{ control, stream chan net.Conn }

func (p pipeTransport) AcceptControl(ctx context.Context) (net.Conn, error) {
	return receive(ctx, p.control)
}

func (p pipeTransport) AcceptStream(ctx context.Context) (net.Conn, error) {
	return receive(ctx, p.stream)
}

func receive(ctx context.Context, c chan net.Conn) (net.Conn, error) {
	select {
	case conn := <-c:
		return conn, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// fakeGuest is a guest that does what a test says.
type fakeGuest struct {
	t    *testing.T
	s    *agent.Session
	tr   pipeTransport
	log  *syncBuffer
	conn net.Conn
	*guestproto.Framer
}

func newFakeGuest(t *testing.T) *fakeGuest {
	t.Helper()
	g := &fakeGuest{t: t, tr: pipeTransport{make(chan net.Conn), make(chan net.Conn)}, log: new(syncBuffer)}
	g.s = agent.New(g.tr, agent.Options{Log: slog.New(slog.NewTextHandler(g.log, nil)), CallTimeout: 5 * time.Second})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		_ = g.s.Serve(ctx)
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Serve did not end")
		}
	})
	return g
}

// dial opens a control connection; greet says hello on it.
func (g *fakeGuest) dial() {
	host, guest := net.Pipe()
	g.tr.control <- host
	g.conn, g.Framer = guest, guestproto.NewFramer(guest)
	g.t.Cleanup(func() { guest.Close() })
}

func (g *fakeGuest) greet(procs ...guestproto.ProcessState) {
	g.t.Helper()
	hello := fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":%s}`, guestproto.NotifyHello,
		marshal(guestproto.Hello{Version: guestproto.Version, Kernel: "6.1.0", Processes: procs}))
	// As the agent does: it dials again until the host knows that its former
	// connection is over.
	waitFor(g.t, func() bool { g.dial(); return g.Send([]byte(hello)) == nil })
	if _, err := g.s.Ready(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
}

func (g *fakeGuest) say(method string, params any) {
	g.t.Helper()
	g.raw(fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":%s}`, method, marshal(params)))
}

func (g *fakeGuest) raw(msg string) {
	g.t.Helper()
	if err := g.Send([]byte(msg)); err != nil {
		g.t.Fatalf("send %.80s: %v", msg, err)
	}
}

func marshal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// serveCalls answers every call with what reply returns, and hands the calls'
// parameters on.
func (g *fakeGuest) serveCalls(reply func(method string, params json.RawMessage) string) {
	conn := g.Framer // this connection, whatever comes after it
	go func() {
		for {
			msg, err := conn.Recv()
			if err != nil {
				return
			}
			var req struct {
				ID     json.RawMessage
				Method string
				Params json.RawMessage
			}
			if json.Unmarshal(msg, &req) != nil {
				return
			}
			if r := reply(req.Method, req.Params); r != "" {
				_ = conn.Send(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,%s}`, req.ID, r))
			}
		}
	}()
}

// start runs a process "p" with standard output and returns its stream token.
func (g *fakeGuest) start(out io.Writer) (*agent.Process, guestproto.Token) {
	g.t.Helper()
	var streams guestproto.Streams
	g.serveCalls(func(method string, params json.RawMessage) string {
		if method == guestproto.MethodRun {
			var r guestproto.Run
			_ = json.Unmarshal(params, &r)
			streams = r.Process.Streams
		}
		return `"result":{"pid":7}`
	})
	p, err := g.s.Run(g.t.Context(), guestproto.Run{Process: proc("p", "x")}, agent.IO{Stdout: out})
	if err != nil {
		g.t.Fatal(err)
	}
	return p, streams[1]
}

// open opens a stream connection with a header.
func (g *fakeGuest) open(header []byte) net.Conn {
	host, guest := net.Pipe()
	g.tr.stream <- host
	g.t.Cleanup(func() { guest.Close() })
	_, _ = guest.Write(header)
	return guest
}

func header(fd uint8, tok guestproto.Token) []byte {
	h := guestproto.StreamHeader{FD: fd, Token: tok}.Encode()
	return h[:]
}

// closedByHost waits until the host has closed a connection.
func (g *fakeGuest) closedByHost(conn net.Conn) {
	g.t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, conn); err != nil {
		g.t.Fatalf("the host did not close the connection: %v", err)
	}
}

func TestHostClosesConnectionOnBrokenProtocol(t *testing.T) {
	hello := `{"jsonrpc":"2.0","method":"hello","params":{"version":1,"kernel":"k","boot_ns":1}}`
	note := func(method, params string) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":%s}`, method, params)
	}
	tests := []struct {
		name string
		msgs []string
	}{
		{"not JSON", []string{"hello"}},
		{"empty", []string{""}},
		{"batch", []string{"[" + hello + "]"}},
		{"request to the host", []string{`{"jsonrpc":"2.0","id":1,"method":"hello","params":{}}`}},
		{"answer to nothing", []string{`{"jsonrpc":"2.0","id":1,"result":{}}`}},
		{"answer with a text id", []string{`{"jsonrpc":"2.0","id":"1","result":{}}`}},
		{"unknown notification", []string{note("boo", "{}")}},
		{"newer version", []string{note("hello", `{"version":3}`)}},
		{"much older version", []string{note("hello", `{"version":0}`)}},
		{"no parameters", []string{`{"jsonrpc":"2.0","method":"hello"}`}},
		{"negative uptime", []string{note("hello", `{"version":1,"boot_ns":-1}`)}},
		{"second hello", []string{hello, hello}},
		{"exit code out of range", []string{hello, note("exit", `{"id":"p","code":256}`)}},
		{"negative exit code", []string{hello, note("exit", `{"id":"p","code":-1}`)}},
		{"signal out of range", []string{hello, note("exit", `{"id":"p","signal":65}`)}},
		{"code and signal", []string{hello, note("exit", `{"id":"p","code":1,"signal":9}`)}},
		{"exit code is no integer", []string{hello, note("exit", `{"id":"p","code":1e99}`)}},
		{"bad process id", []string{hello, note("exit", `{"id":"../x","code":1}`)}},
		{"log level", []string{hello, note("log", `{"level":"fatal","message":"x"}`)}},
		{"log too long", []string{hello, note("log", fmt.Sprintf(`{"level":"info","message":%q}`, strings.Repeat("x", 5000)))}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newFakeGuest(t)
			g.dial()
			for _, m := range tt.msgs {
				g.raw(m)
			}
			g.closedByHost(g.conn)
			waitFor(t, func() bool { return g.s.Counters().Violations.Load() == 1 })
			// The session lives on for a guest that behaves.
			g.greet()
		})
	}
}

// waitFor waits for a condition that another goroutine is about to make true.
func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatal("condition not reached in 5 s")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestOversizedFrameIsRefusedUnread(t *testing.T) {
	g := newFakeGuest(t)
	g.dial()
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], guestproto.MaxMessage+1)
	if _, err := g.conn.Write(b[:]); err != nil {
		t.Fatal(err)
	}
	g.closedByHost(g.conn)
}

func TestExitsOfUnknownProcessesAndSecondExitsAreDropped(t *testing.T) {
	g := newFakeGuest(t)
	g.greet()
	p, tok := g.start(io.Discard)
	g.open(header(1, tok)).Close()
	g.say(guestproto.NotifyExit, guestproto.Exit{ID: "other", Code: 1})
	g.say(guestproto.NotifyExit, guestproto.Exit{ID: "p", Code: 3})
	g.say(guestproto.NotifyExit, guestproto.Exit{ID: "p", Code: 4})
	e, err := p.Wait(t.Context())
	if err != nil || e.Code != 3 {
		t.Errorf("exit %+v, %v; the first one counts", e, err)
	}
	waitFor(t, func() bool {
		c := g.s.Counters()
		return c.UnknownExits.Load()+c.DuplicateExits.Load() == 2
	})
}

func TestWaitReturnsAfterTheLastByte(t *testing.T) {
	g := newFakeGuest(t)
	g.greet()
	var out syncBuffer
	p, tok := g.start(&out)
	conn := g.open(header(1, tok))
	g.say(guestproto.NotifyExit, guestproto.Exit{ID: "p"})
	waited := make(chan error, 1)
	go func() {
		_, err := p.Wait(t.Context())
		waited <- err
	}()
	for range 100 {
		_, _ = conn.Write(bytes.Repeat([]byte("x"), 1000))
	}
	select {
	case err := <-waited:
		t.Fatalf("Wait returned before the stream's end: %v", err)
	default:
	}
	conn.Close()
	if err := <-waited; err != nil || len(out.String()) != 100_000 {
		t.Errorf("%v, %d bytes", err, len(out.String()))
	}
}

func TestStreamsNeedTheirTokenOnce(t *testing.T) {
	g := newFakeGuest(t)
	g.greet()
	var out syncBuffer
	p, tok := g.start(&out)
	other := tok
	other[15] ^= 1
	bad := header(1, tok)
	bad[0] = 'X'
	reserved := header(1, tok)
	reserved[7] = 1
	for i, h := range [][]byte{header(1, other), header(2, tok), bad, reserved, header(1, guestproto.Token{})} {
		g.closedByHost(g.open(h))
		waitFor(t, func() bool { return g.s.Counters().BadStreams.Load() == uint64(i+1) })
	}
	conn := g.open(header(1, tok))
	_, _ = conn.Write([]byte("right"))
	g.closedByHost(g.open(header(1, tok)))
	conn.Close()
	g.say(guestproto.NotifyExit, guestproto.Exit{ID: "p"})
	if _, err := p.Wait(t.Context()); err != nil || out.String() != "right" {
		t.Errorf("%v, output %q", err, out.String())
	}
}

func TestStartErrorCarriesCodeAndCleanMessage(t *testing.T) {
	tests := []struct {
		name, reply string
		check       func(error) bool
	}{
		{"start failure", `"error":{"code":-32010,"message":"exec: \u001b[31mred","data":{"exit_code":127}}`, func(err error) bool {
			var se *agent.StartError
			return errors.As(err, &se) && se.ExitCode == 127 && se.Message == "exec: .[31mred"
		}},
		{"exit code out of range", `"error":{"code":-32010,"message":"x","data":{"exit_code":0}}`, func(err error) bool { return errors.Is(err, agent.ErrGuest) }},
		{"no exit code", `"error":{"code":-32010,"message":"x"}`, func(err error) bool { return errors.Is(err, agent.ErrGuest) }},
		{"failed", `"error":{"code":-32013,"message":"mount: no"}`, func(err error) bool { return errors.Is(err, agent.ErrFailed) }},
		{"negative pid", `"result":{"pid":-1}`, func(err error) bool { return errors.Is(err, guestproto.ErrInvalid) }},
		{"result of the wrong type", `"result":[1]`, func(err error) bool { return errors.Is(err, agent.ErrGuest) }},
		{"neither", `"x":1`, func(err error) bool { return err != nil }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newFakeGuest(t)
			g.greet()
			g.serveCalls(func(string, json.RawMessage) string { return tt.reply })
			// Twice: a failed start leaves nothing behind that blocks the next.
			for range 2 {
				if _, err := g.s.Run(t.Context(), guestproto.Run{Process: proc("p", "x")}, agent.IO{Stdout: io.Discard}); !tt.check(err) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

func TestImpossibleStatsAreRefused(t *testing.T) {
	g := newFakeGuest(t)
	g.greet()
	g.serveCalls(func(string, json.RawMessage) string {
		return `"result":{"cpu_usage_us":18446744073709551615}`
	})
	if _, err := g.s.Stats(t.Context()); !errors.Is(err, guestproto.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestCallEndsWhenTheGuestDisconnectsOrIsSilent(t *testing.T) {
	g := newFakeGuest(t)
	g.greet()
	g.serveCalls(func(string, json.RawMessage) string { return "" })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := g.s.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(fmt.Sprint(err), "deadline") {
		t.Errorf("silent guest: %v", err)
	}
	failed := make(chan error, 1)
	asked := make(chan struct{})
	g = newFakeGuest(t)
	g.greet()
	g.serveCalls(func(string, json.RawMessage) string { close(asked); return "" })
	go func() {
		_, err := g.s.Ping(t.Context())
		failed <- err
	}()
	<-asked
	g.conn.Close()
	if err := <-failed; !errors.Is(err, agent.ErrDisconnected) {
		t.Errorf("guest that hung up: %v", err)
	}
}

func TestAnswerBeforeHangingUpCounts(t *testing.T) {
	for range 50 {
		g := newFakeGuest(t)
		g.greet()
		go func() {
			_, _ = g.Recv()
			_ = g.Send([]byte(`{"jsonrpc":"2.0","id":1,"result":{"unix_nano":5}}`))
			g.conn.Close()
		}()
		p, err := g.s.Ping(t.Context())
		if err != nil || p.UnixNano != 5 {
			t.Fatalf("%+v, %v", p, err)
		}
	}
}

func TestLogIsCleanedAndLimited(t *testing.T) {
	g := newFakeGuest(t)
	g.greet()
	for i := range 1000 {
		g.say(guestproto.NotifyLog, guestproto.Log{Level: "warn", Message: fmt.Sprintf("line %d \x1b[2J\n", i)})
	}
	waitFor(t, func() bool { return g.s.Counters().DroppedLogs.Load() > 800 })
	text := g.log.String()
	if n := strings.Count(text, "\n"); n > 200 {
		t.Errorf("%d lines were logged", n)
	}
	if strings.ContainsAny(text, "\x1b") || strings.Contains(text, `\x1b`) {
		t.Error("an escape sequence reached the log")
	}
}

func TestReconnectedGuestReportsExitsItMissed(t *testing.T) {
	g := newFakeGuest(t)
	g.greet()
	p, tok := g.start(io.Discard)
	g.open(header(1, tok)).Close()
	g.conn.Close()
	g.greet(guestproto.ProcessState{ID: "p", Exit: &guestproto.Exit{ID: "p", Signal: 9}})
	if e, err := p.Wait(t.Context()); err != nil || e.Status() != 137 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestWaitEndsWithTheSession(t *testing.T) {
	g := &fakeGuest{t: t, tr: pipeTransport{make(chan net.Conn), make(chan net.Conn)}, log: new(syncBuffer)}
	g.s = agent.New(g.tr, agent.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- g.s.Serve(ctx) }()
	g.greet()
	p, _ := g.start(io.Discard)
	cancel()
	if err := <-served; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v", err)
	}
	if _, err := p.Wait(t.Context()); !errors.Is(err, agent.ErrClosed) {
		t.Errorf("Wait: %v", err)
	}
	if _, err := g.s.Ping(t.Context()); !errors.Is(err, agent.ErrClosed) {
		t.Errorf("Ping: %v", err)
	}
}

// TestAWriterThatTakesNothingDoesNotHoldTheEnd: the process has exited, the
// host's side of its output takes nothing, and the session is told to end.
func TestAWriterThatTakesNothingDoesNotHoldTheEnd(t *testing.T) {
	g := &fakeGuest{t: t, tr: pipeTransport{make(chan net.Conn), make(chan net.Conn)}, log: new(syncBuffer)}
	g.s = agent.New(g.tr, agent.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- g.s.Serve(ctx) }()
	g.greet()
	r, w := io.Pipe() // nobody reads it
	t.Cleanup(func() { r.Close() })
	p, tok := g.start(w)
	g.open(append(header(1, tok), "output"...))
	g.say(guestproto.NotifyExit, guestproto.Exit{ID: "p", Code: 3})
	waited := make(chan error, 1)
	go func() {
		e, err := p.Wait(context.Background())
		if err == nil && e.Status() != 3 {
			err = fmt.Errorf("exit %+v", e)
		}
		waited <- err
	}()
	cancel()
	<-served
	select {
	case err := <-waited:
		if err != nil && !errors.Is(err, agent.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Wait hangs on a writer that takes nothing")
	}
}

// TestSecondControlConnectionDoesNotReplaceALiveOne: any process in the guest
// can connect to the host; it must not take the agent's place.
func TestSecondControlConnectionDoesNotReplaceALiveOne(t *testing.T) {
	g := newFakeGuest(t)
	g.greet()
	p, tok := g.start(io.Discard)
	g.open(header(1, tok)).Close()
	agentFrames, agentConn := g.Framer, g.conn
	for range 3 {
		g.dial() // an impostor
		g.closedByHost(g.conn)
	}
	if n := g.s.Counters().Impostors.Load(); n != 3 {
		t.Errorf("%d impostors were counted", n)
	}
	if _, err := g.s.Ping(t.Context()); err != nil {
		t.Errorf("the agent was lost: %v", err)
	}
	g.Framer, g.conn = agentFrames, agentConn
	g.say(guestproto.NotifyExit, guestproto.Exit{ID: "p", Code: 4})
	if e, err := p.Wait(t.Context()); err != nil || e.Status() != 4 {
		t.Errorf("%+v, %v", e, err)
	}
	g.conn.Close()
	g.dial() // closed, or silent: it makes way
	g.greet()
}

// TestSilentStreamConnectionsDoNotKeepOthersOut: connections that do not say
// which stream they are make way for those that do.
func TestSilentStreamConnectionsDoNotKeepOthersOut(t *testing.T) {
	g := newFakeGuest(t)
	g.greet()
	var out syncBuffer
	p, tok := g.start(&out)
	began := time.Now()
	for range 100 {
		g.open(nil)
	}
	conn := g.open(header(1, tok))
	_, _ = conn.Write([]byte("heard"))
	conn.Close()
	g.say(guestproto.NotifyExit, guestproto.Exit{ID: "p"})
	if _, err := p.Wait(t.Context()); err != nil || out.String() != "heard" {
		t.Errorf("%v, output %q", err, out.String())
	}
	if took := time.Since(began); took > 5*time.Second { // a silent one is given 10 s
		t.Errorf("it took %v", took)
	}
}

// FuzzGuestMessage plays a guest that sends any message after its hello, and
// any bytes as a stream header, while a call is pending. The host must not
// panic, must not hang, and must still serve a guest that behaves.
func FuzzGuestMessage(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","method":"exit","params":{"id":"p","code":1}}`,
		`{"jsonrpc":"2.0","method":"log","params":{"level":"info","message":"m"}}`,
		`{"jsonrpc":"2.0","method":"hello","params":{"version":1,"processes":[{"id":"p","exit":{"id":"p"}}]}}`,
		`{"jsonrpc":"2.0","id":1,"result":{"pid":1}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32010,"message":"m","data":{"exit_code":126}}}`,
		`[]`, `{}`, `null`, `{"id":{},"method":[]}`, `{"jsonrpc":"2.0","id":1,"result":{"pid":1},"error":{}}`,
	} {
		f.Add([]byte(s), []byte("HVST\x01\x01\x00\x000123456789abcdef"))
	}
	f.Fuzz(func(t *testing.T, msg, head []byte) {
		if len(msg) > guestproto.MaxMessage {
			return
		}
		g := newFakeGuest(t)
		g.dial()
		g.say(guestproto.NotifyHello, guestproto.Hello{Version: guestproto.Version})
		asked := make(chan struct{})
		go func(conn net.Conn, frame *guestproto.Framer) {
			_, _ = frame.Recv()
			close(asked)
			_, _ = io.Copy(io.Discard, conn)
		}(g.conn, g.Framer)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = g.s.Run(ctx, guestproto.Run{Process: proc("p", "x")}, agent.IO{Stdout: io.Discard})
		}()
		<-asked
		_ = g.Send(msg)
		g.open(head).Close()
		g.conn.Close()
		<-ended
		if ctx.Err() != nil {
			t.Fatal("a call hung")
		}
		g.greet()
	})
}
