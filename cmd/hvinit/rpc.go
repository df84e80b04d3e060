package main

import (
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// The guest's half of JSON-RPC 2.0. The host's half is a library; here one
// would double the size of this binary, which is unpacked on every boot
// (docs/adr/0004-agent-protocol.md).

type rpcRequest struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

type rpcReply struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  any             `json:"params,omitempty"`
	Result  any             `json:"result,omitempty"`
	Error   *rpcFailure     `json:"error,omitempty"`
}

type rpcFailure struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    any    `json:"data,omitempty"`
}

// closeWait is how long a last message may take to be read by the host.
const closeWait = 10 * time.Second

// server answers the host on whatever control connection there is.
type server struct {
	m    *manager
	dial dialer

	inflight sync.WaitGroup // calls that have not been answered

	mu    sync.Mutex
	conn  *os.File
	frame *guestproto.Framer // nil while not connected
	final bool               // no more connections
	done  chan struct{}      // closed when the last connection has ended
}

func newServer(m *manager, d dialer) *server {
	return &server{m: m, dial: d, done: make(chan struct{})}
}

// serve keeps a control connection to the host until finish is called. A
// machine that was paused, moved or restored finds its connection broken, and
// dials again.
func (s *server) serve() {
	defer close(s.done)
	delay := 10 * time.Millisecond
	for {
		conn, err := s.dial(guestproto.ControlPort)
		if err == nil {
			delay = 10 * time.Millisecond
			s.session(conn)
		}
		s.mu.Lock()
		final := s.final
		s.mu.Unlock()
		if final {
			return
		}
		time.Sleep(delay) //nolint:forbidigo // nothing says when the host listens again
		delay = min(2*delay, time.Second)
	}
}

// session speaks on one connection until it breaks.
func (s *server) session(conn *os.File) {
	frame := guestproto.NewFramer(conn)
	defer frame.Close()
	hello := s.m.hello()
	s.mu.Lock()
	err := send(frame, rpcReply{Method: guestproto.NotifyHello, Params: hello})
	s.conn, s.frame = conn, frame
	s.mu.Unlock()
	s.missed(hello)
	for err == nil {
		var msg []byte
		if msg, err = frame.Recv(); err == nil {
			s.handle(frame, msg)
		}
	}
	s.mu.Lock()
	s.conn, s.frame = nil, nil
	s.mu.Unlock()
}

// missed reports the exits that happened between a hello and the moment from
// which notify used its connection. The host ignores what it hears twice.
func (s *server) missed(before guestproto.Hello) {
	known := map[string]bool{}
	for _, p := range before.Processes {
		known[p.ID] = p.Exit != nil
	}
	for _, p := range s.m.hello().Processes {
		if p.Exit != nil && !known[p.ID] {
			s.notify(guestproto.NotifyExit, *p.Exit)
		}
	}
}

func send(f *guestproto.Framer, r rpcReply) error {
	r.Version = "2.0"
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return f.Send(b)
}

// handle serves one message. Calls that take long, or wait, run beside the
// others; the rest are answered in order.
func (s *server) handle(frame *guestproto.Framer, msg []byte) {
	var req rpcRequest
	if err := json.Unmarshal(msg, &req); err != nil || req.Method == "" || len(req.ID) == 0 {
		_ = send(frame, rpcReply{ID: json.RawMessage("null"), Error: &rpcFailure{Code: -32600, Message: "not a request"}})
		return
	}
	s.inflight.Add(1)
	answer := func() {
		defer s.inflight.Done()
		result, err := s.m.call(req.Method, req.Params)
		reply := rpcReply{ID: req.ID, Result: result}
		if err != nil {
			reply.Result, reply.Error = nil, failureOf(err)
		} else if result == nil {
			reply.Result = struct{}{}
		}
		_ = send(frame, reply)
	}
	switch req.Method {
	case guestproto.MethodRun, guestproto.MethodPod, guestproto.MethodCreate, guestproto.MethodRemove, guestproto.MethodExec, guestproto.MethodCopy, guestproto.MethodPack, guestproto.MethodFill, guestproto.MethodSuspend, guestproto.MethodContinue, guestproto.MethodTop, guestproto.MethodStats, guestproto.MethodIdentify, guestproto.MethodFreeze, guestproto.MethodThaw:
		go answer()
	default:
		answer()
	}
}

func failureOf(err error) *rpcFailure {
	if re, ok := errors.AsType[*rpcError](err); ok {
		return &rpcFailure{Code: re.code, Message: re.msg}
	}
	if f, ok := startFailure(err); ok {
		return &rpcFailure{Code: guestproto.CodeStart, Message: err.Error(), Data: f}
	}
	return &rpcFailure{Code: guestproto.CodeFailed, Message: err.Error()}
}

// call runs one method.
func (m *manager) call(method string, params json.RawMessage) (any, error) {
	switch method {
	case guestproto.MethodRun:
		return with(params, m.start)
	case guestproto.MethodPod:
		return nil, do(params, m.beginPod)
	case guestproto.MethodCreate:
		return with(params, m.create)
	case guestproto.MethodRemove:
		return nil, do(params, m.remove)
	case guestproto.MethodExec:
		return with(params, m.exec)
	case guestproto.MethodAttach:
		return nil, do(params, func(a guestproto.Attach) error {
			return m.withIO(a.ID, func(io *stdio) { io.attach(a.Streams) })
		})
	case guestproto.MethodSignal:
		return nil, do(params, m.signal)
	case guestproto.MethodResize:
		return nil, do(params, func(r guestproto.Resize) error {
			return m.withIO(r.ID, func(io *stdio) { io.resize(r.Width, r.Height) })
		})
	case guestproto.MethodCloseStdin:
		return nil, do(params, func(c guestproto.CloseStdin) error {
			return m.withIO(c.ID, func(io *stdio) { io.closeStdin(c.Bytes) })
		})
	case guestproto.MethodCopy:
		return with(params, m.copy)
	case guestproto.MethodPack:
		return with(params, m.packLayer)
	case guestproto.MethodFill:
		return with(params, m.fillLayer)
	case guestproto.MethodSuspend:
		return nil, m.suspend(true)
	case guestproto.MethodContinue:
		return nil, m.suspend(false)
	case guestproto.MethodTop:
		return m.top()
	case guestproto.MethodStats:
		return m.stats()
	case guestproto.MethodPing:
		return guestproto.Pong{UnixNano: time.Now().UnixNano(), UptimeNs: uptime()}, nil
	case guestproto.MethodSyncClock:
		return nil, do(params, func(c guestproto.SyncClock) error { return setClock(c.UnixNano) })
	case guestproto.MethodBeat:
		return with(params, func(b guestproto.Beat) (guestproto.Gap, error) {
			return guestproto.Gap{LongestNs: m.beat.watch(b.On).Nanoseconds()}, nil
		})
	case guestproto.MethodReseed:
		return nil, do(params, func(r guestproto.Reseed) error { return reseed(r.Entropy) })
	case guestproto.MethodIdentify:
		return nil, do(params, m.identify)
	case guestproto.MethodPlug:
		return nil, do(params, m.plug)
	case guestproto.MethodLimit:
		return nil, do(params, m.limit)
	case guestproto.MethodFreeze:
		return nil, m.freeze(true)
	case guestproto.MethodThaw:
		return nil, m.freeze(false)
	case guestproto.MethodShutdown:
		return nil, do(params, m.shutdown)
	}
	return nil, &rpcError{-32601, "no such method: " + guestproto.CleanText(method)}
}

func with[P, R any](params json.RawMessage, fn func(P) (R, error)) (any, error) {
	var p P
	if err := json.Unmarshal(params, &p); err != nil {
		return nil, &rpcError{-32602, err.Error()}
	}
	r, err := fn(p)
	return r, err
}

func do[P any](params json.RawMessage, fn func(P) error) error {
	_, err := with(params, func(p P) (struct{}, error) { return struct{}{}, fn(p) })
	return err
}

// notify sends a notification if the host is connected. What matters is in the
// next hello too.
func (s *server) notify(method string, params any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frame != nil {
		_ = send(s.frame, rpcReply{Method: method, Params: params})
	}
}

func (s *server) log(level, msg string) {
	s.notify(guestproto.NotifyLog, guestproto.Log{Level: level, Message: guestproto.CleanText(msg)})
}

func (s *server) online() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frame != nil
}

// finish says goodbye: it waits until the host has read everything, which the
// host shows by closing its end.
func (s *server) finish() {
	expired := time.After(closeWait)
	answered := make(chan struct{})
	go func() {
		s.inflight.Wait()
		close(answered)
	}()
	select {
	case <-answered:
	case <-expired:
	}
	s.mu.Lock()
	s.final = true
	if s.conn != nil {
		if err := closeWrite(s.conn); err != nil && !errors.Is(err, unix.ENOTCONN) {
			s.conn.Close()
		}
	}
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-expired:
	}
}
