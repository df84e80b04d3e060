package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/creachadair/jrpc2"
	"golang.org/x/sync/errgroup"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// Transport hands out the connections that the guest opens. Both methods block
// until there is one, ctx ends, or the transport is closed; the Session owns
// the connections they return.
type Transport interface {
	// AcceptControl returns the next connection to guestproto.ControlPort.
	AcceptControl(ctx context.Context) (net.Conn, error)
	// AcceptStream returns the next connection to guestproto.StreamPort.
	AcceptStream(ctx context.Context) (net.Conn, error)
}

// Options configure a Session.
type Options struct {
	// Log receives what the guest's init has to say, and what it does wrong.
	// Nil discards.
	Log *slog.Logger
	// CallTimeout bounds a call whose context has no deadline; 0 means 60 s.
	CallTimeout time.Duration
}

// Counters count what a guest did wrong. They only grow.
type Counters struct {
	UnknownExits   atomic.Uint64 // exits of processes that do not exist
	DuplicateExits atomic.Uint64 // second exits
	BadStreams     atomic.Uint64 // stream connections with a bad header or token
	Violations     atomic.Uint64 // control connections closed for ErrGuest
	DroppedLogs    atomic.Uint64 // log lines over the rate limit
	Impostors      atomic.Uint64 // control connections beside the agent's own
}

// Session is the conversation with one guest. It is made before the guest
// starts, and outlives broken connections. All methods may be called
// concurrently.
type Session struct {
	transport Transport
	log       *slog.Logger
	timeout   time.Duration
	limit     rateLimit
	counters  Counters

	mu      sync.Mutex
	client  *jrpc2.Client // nil while no guest that said hello is connected
	channel *channel      // of client
	conn    net.Conn      // of client, or of the connection that has not said hello
	hello   guestproto.Hello
	ready   chan struct{} // closed when client is set; replaced when it is lost
	procs   map[string]*Process
	streams map[*stream]struct{} // awaited, not yet connected
	closed  chan struct{}        // closed when Serve ends
}

// New returns a Session over t. Serve must run for anything to happen.
func New(t Transport, o Options) *Session {
	s := &Session{
		transport: t, log: o.Log, timeout: o.CallTimeout,
		ready: make(chan struct{}), closed: make(chan struct{}),
		procs: map[string]*Process{}, streams: map[*stream]struct{}{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.timeout == 0 {
		s.timeout = time.Minute
	}
	return s
}

// Counters returns the session's counters.
func (s *Session) Counters() *Counters { return &s.counters }

// Serve accepts the guest's connections until ctx ends or the transport fails,
// as it does when the machine is gone. It is called once. In the second case
// the streams that are connected are first read to their end, so that nothing
// the workload wrote is lost. When Serve returns every call and Wait that still
// blocks returns an error wrapping ErrClosed.
func (s *Session) Serve(ctx context.Context) error {
	g, accept := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serveControl(accept) })
	g.Go(func() error { return s.serveStreams(ctx, accept) })
	err := g.Wait()
	s.mu.Lock()
	client, conn := s.client, s.conn
	s.client, s.conn = nil, nil
	for st := range s.streams {
		st.abandon()
	}
	clear(s.streams)
	close(s.closed)
	s.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
	if client != nil {
		client.Close()
	}
	return err
}

// serveControl runs one control connection at a time. Any process in the guest
// can open one: while the agent's, the first that said hello, is alive, others
// are closed. One that has not said hello makes way for the next.
func (s *Session) serveControl(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := s.transport.AcceptControl(ctx)
		if err != nil {
			s.disconnect(nil)
			return err
		}
		if s.connected() {
			s.counters.Impostors.Add(1)
			conn.Close()
			continue
		}
		s.disconnect(nil)
		wg.Wait()
		s.mu.Lock()
		s.conn = conn
		s.mu.Unlock()
		wg.Go(func() { s.control(ctx, conn) })
	}
}

// connected reports whether the agent said hello and is there.
func (s *Session) connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client != nil
}

// control speaks on one connection until it ends.
func (s *Session) control(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	stopped := make(chan error, 1)
	var client *jrpc2.Client
	var ch *channel
	made := make(chan struct{})
	ch = newChannel(conn, func(method string, params json.RawMessage) error {
		<-made
		return s.notification(peer{client, ch, conn}, method, params)
	})
	client = jrpc2.NewClient(ch, &jrpc2.ClientOptions{
		OnStop: func(_ *jrpc2.Client, err error) { stopped <- err },
	})
	close(made)
	err := <-stopped
	s.disconnect(conn)
	client.Close()
	if errors.Is(err, ErrGuest) || errors.Is(err, guestproto.ErrTooLarge) || errors.Is(err, guestproto.ErrInvalid) {
		s.counters.Violations.Add(1)
		s.report(slog.LevelWarn, "guest control connection closed", "err", err)
	}
}

// disconnect closes and forgets conn and its client, or, when conn is nil,
// whichever there is.
func (s *Session) disconnect(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if conn != nil && s.conn != conn {
		return
	}
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	if s.client != nil {
		s.client = nil
		s.ready = make(chan struct{})
	}
}

// peer is the guest's end of one control connection.
type peer struct {
	client  *jrpc2.Client
	channel *channel
	conn    net.Conn
}

// notification handles one notification, on the reader's goroutine. An error
// ends the connection.
func (s *Session) notification(from peer, method string, params json.RawMessage) error {
	switch method {
	case guestproto.NotifyHello:
		var h guestproto.Hello
		if err := decode(params, &h); err != nil {
			return err
		}
		return s.greet(from, h)
	case guestproto.NotifyExit:
		var e guestproto.Exit
		if err := decode(params, &e); err != nil {
			return err
		}
		s.exited(e)
	case guestproto.NotifyLog:
		var l guestproto.Log
		if err := decode(params, &l); err != nil {
			return err
		}
		level := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[l.Level]
		s.report(level, "guest says", "text", guestproto.CleanText(l.Message))
	default:
		return fmt.Errorf("%w: unknown notification %q", ErrGuest, guestproto.CleanText(method[:min(len(method), 64)]))
	}
	return nil
}

// message is a type with limits on what a guest may say in it.
type message interface{ Validate() error }

func decode[M message](raw json.RawMessage, m *M) error {
	if len(raw) == 0 {
		return fmt.Errorf("%w: notification without parameters", ErrGuest)
	}
	if err := json.Unmarshal(raw, m); err != nil {
		return fmt.Errorf("%w: parameters of the wrong type", ErrGuest)
	}
	return (*m).Validate()
}

// greet makes a connection that said hello the current one.
func (s *Session) greet(from peer, h guestproto.Hello) error {
	s.mu.Lock()
	if s.conn != from.conn || s.client != nil {
		s.mu.Unlock()
		return fmt.Errorf("%w: second hello", ErrGuest)
	}
	s.client, s.channel, s.hello = from.client, from.channel, h
	close(s.ready)
	s.mu.Unlock()
	for _, p := range h.Processes {
		if p.Exit != nil {
			s.exited(*p.Exit)
		}
	}
	return nil
}

// exited records an exit; the first one of a process counts.
func (s *Session) exited(e guestproto.Exit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.procs[e.ID]
	switch {
	case p == nil:
		s.counters.UnknownExits.Add(1)
	case p.exit != nil:
		s.counters.DuplicateExits.Add(1)
	default:
		p.exit = &e
		close(p.exited)
	}
}

// report logs within the rate limit.
func (s *Session) report(level slog.Level, msg string, args ...any) {
	if !s.limit.allow(time.Now()) {
		s.counters.DroppedLogs.Add(1)
		return
	}
	s.log.Log(context.Background(), level, msg, args...) //nolint:sloglint // every caller passes a constant
}

// Ready waits until the guest's init is connected, and returns what it said of
// itself. Running in it tells a host that took over a running guest to Attach
// instead of calling Run.
func (s *Session) Ready(ctx context.Context) (guestproto.Hello, error) {
	_, _, h, err := s.await(ctx)
	return h, err
}

func (s *Session) await(ctx context.Context) (*jrpc2.Client, *channel, guestproto.Hello, error) {
	for {
		s.mu.Lock()
		client, ch, hello, ready := s.client, s.channel, s.hello, s.ready
		s.mu.Unlock()
		if client != nil {
			return client, ch, hello, nil
		}
		select {
		case <-ready:
		case <-s.closed:
			return nil, nil, hello, fmt.Errorf("%w: the guest is gone", ErrClosed)
		case <-ctx.Done():
			return nil, nil, hello, fmt.Errorf("waiting for the guest agent: %w", context.Cause(ctx))
		}
	}
}

// call asks the guest and validates the answer. A nil out expects none.
func (s *Session) call(ctx context.Context, method string, params any, out func(*jrpc2.Response) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	client, ch, _, err := s.await(ctx)
	if err != nil {
		return err
	}
	rsp, err := client.Call(ctx, method, params)
	ch.consumed()
	if err != nil {
		if ctx.Err() == nil && (errors.Is(err, context.Canceled) || client.IsStopped()) {
			return fmt.Errorf("%w: during %s", ErrDisconnected, method)
		}
		return callError(method, err)
	}
	if out == nil {
		return nil
	}
	return out(rsp)
}

// result decodes and validates an answer.
func result[M message](m *M) func(*jrpc2.Response) error {
	return func(r *jrpc2.Response) error {
		if err := r.UnmarshalResult(m); err != nil {
			return fmt.Errorf("%w: answer of the wrong type", ErrGuest)
		}
		return (*m).Validate()
	}
}

// rateLimit is a token bucket: 64 at once, 16 a second.
type rateLimit struct {
	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func (r *rateLimit) allow(now time.Time) bool {
	const burst, perSecond = 64, 16
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last.IsZero() {
		r.tokens = burst
	} else {
		r.tokens = min(burst, r.tokens+now.Sub(r.last).Seconds()*perSecond)
	}
	r.last = now
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}
