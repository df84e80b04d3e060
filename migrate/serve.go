package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

// ErrLost is wrapped when a guest that lacked pages has ended since they cannot be
// had any more.
var ErrLost = errors.New("the guest is lost: memory that it had not got yet cannot be had")

// Names of what a refusal of a post-copy connection means.
const (
	codeLost  = "lost"  // the guest is no more
	codeLater = "later" // ask again
)

// pushPages is how many pages are pushed at a time: whoever waits for a page waits
// for that many at most.
const pushPages = 32

// pageServer has what a destination lacks, and sends it: in order over one
// connection, and at once over another what somebody waits for there. The memory
// does not change any more.
type pageServer struct {
	dialer  *dialer
	areas   []area
	pages   []uint64
	missing [][]uint64 // when the guest was handed over
	limiter *limiter
	over    chan commit.Event // DRAINED, or REFUSE lost
	kick    chan struct{}

	cancel context.CancelCauseFunc
	done   chan struct{}

	mu     sync.Mutex // guards what follows
	todo   [][]uint64 // of missing, what was not sent over this link
	at     cursor     // where pushing goes on
	urgent int        // answers under way: pushing waits
	idle   *sync.Cond // urgent is 0, or the link is gone
	broken bool
	links  int
	all    bool // the destination has said so
	stats  PostCopy
}

// cursor is a place in the RAM.
type cursor struct {
	region int
	page   uint64
}

func newPageServer(d *dialer, areas []area, missing [][]uint64, l *limiter) *pageServer {
	p := &pageServer{dialer: d, areas: areas, missing: missing, limiter: l, over: make(chan commit.Event, 1), kick: make(chan struct{}, 1)}
	p.idle = sync.NewCond(&p.mu)
	for i, a := range areas {
		p.pages = append(p.pages, a.pages)
		p.stats.Missing += count(missing[i])
	}
	p.stats.State, p.stats.Left = "switching", p.stats.Missing
	return p
}

// start begins to serve, once.
func (p *pageServer) start() {
	if p.done != nil {
		return
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	p.cancel, p.done = cancel, make(chan struct{})
	go func() {
		defer close(p.done)
		p.run(ctx)
	}()
}

// stop ends serving. The destination is told nothing.
func (p *pageServer) stop() { p.fail("") }

// fail ends serving and tells the destination why its pages will never come.
func (p *pageServer) fail(why string) {
	if p.done == nil {
		return
	}
	var cause error
	if why != "" {
		cause = errGone{why}
	}
	p.cancel(cause)
	<-p.done
}

// errGone is why nobody will be served any more.
type errGone struct{ why string }

func (e errGone) Error() string { return e.why }

func (p *pageServer) end(state string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.State = state
}

func (p *pageServer) report() PostCopy {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	switch {
	case p.all:
		s.Left = 0
	case p.todo != nil:
		s.Left = 0
		for _, words := range p.todo {
			s.Left += count(words)
		}
	}
	return s
}

// retry dials now.
func (p *pageServer) retry() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// run serves over one link after the other, until there is nothing left to do.
func (p *pageServer) run(ctx context.Context) {
	wait := p.dialer.o.Backoff
	for {
		begin := time.Now()
		err := p.link(ctx)
		told, refused := errors.AsType[refusedError](err)
		switch {
		case err == nil:
			p.over <- commit.GotDrained
			return
		case refused && told.code == codeLost:
			p.mu.Lock()
			p.stats.Why = told.message
			p.mu.Unlock()
			p.over <- commit.GotLost
			return
		case ctx.Err() != nil:
			return
		}
		p.mu.Lock()
		p.stats.State, p.stats.Why = "broken", err.Error()
		p.mu.Unlock()
		p.dialer.o.Log.Warn("the destination that lacks pages is not reached", "err", err)
		if time.Since(begin) > time.Minute {
			wait = p.dialer.o.Backoff
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
			wait = min(2*wait, maxBackoff)
		case <-p.kick:
			wait = p.dialer.o.Backoff
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// link serves over one pair of connections. nil is that everything has arrived.
func (p *pageServer) link(ctx context.Context) error {
	h := p.dialer.hello
	h.Token, h.Build, h.VM = "", "", ""
	h.Role = rolePush
	push, _, _, err := p.dialer.greet(ctx, 0, h)
	if err != nil {
		return err
	}
	defer func() { _ = push.Close() }()
	todo, drained, err := p.learn(push)
	if err != nil || drained {
		return err
	}
	h.Role = roleFault
	fault, _, _, err := p.dialer.greet(ctx, 0, h)
	if err != nil {
		return err
	}
	defer func() { _ = fault.Close() }()
	p.mu.Lock()
	p.todo, p.at, p.urgent, p.broken = todo, cursor{}, 0, false
	if p.links++; p.links > 1 {
		p.stats.Reconnects++
	}
	p.stats.State, p.stats.Why = "serving", ""
	p.mu.Unlock()
	return p.exchange(ctx, push, fault)
}

// errDrained ends a link whose work is done.
var errDrained = errors.New("drained")

func (p *pageServer) exchange(ctx context.Context, push, fault *wire.Conn) error {
	g, gctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(gctx, func() {
		if gone, ok := errors.AsType[errGone](context.Cause(ctx)); ok {
			_ = sendJSON(push, wire.Abort, refusal{Code: codeLost, Message: gone.why})
		}
		_, _ = push.Close(), fault.Close()
		p.mu.Lock()
		p.broken = true
		p.idle.Broadcast()
		p.mu.Unlock()
	})
	defer stop()
	g.Go(func() error { ping(gctx, push, p.dialer.o.Keepalive); return nil })
	g.Go(func() error { ping(gctx, fault, p.dialer.o.Keepalive); return nil })
	g.Go(func() error { return p.push(gctx, push) })
	g.Go(func() error { return p.answer(fault) })
	g.Go(func() error { return p.listen(push) })
	if err := g.Wait(); !errors.Is(err, errDrained) {
		return err
	}
	return nil
}

// learn receives what the destination still lacks. It may be told that this is
// nothing.
func (p *pageServer) learn(c *wire.Conn) (todo [][]uint64, drained bool, err error) {
	for _, m := range p.missing {
		todo = append(todo, make([]uint64, len(m)))
	}
	for frames := 0; ; frames++ {
		t, b, err := c.Recv(p.dialer.o.Stall)
		switch {
		case err != nil:
			return nil, false, fmt.Errorf("%w: %w", errLink, err)
		case t == wire.Refuse:
			return nil, false, refusedBy(b)
		case t == wire.Drained:
			return nil, true, p.drained(b)
		case t != wire.Missing:
			return nil, false, fmt.Errorf("%w: %v instead of MISSING", ErrProtocol, t)
		case len(b) == 0:
			return todo, false, nil
		}
		n, err := wire.DecodeMissing(b, p.pages, todo)
		if err == nil && n == 0 {
			err = errors.New("MISSING says nothing new")
		}
		if err != nil {
			return nil, false, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		for i, words := range todo {
			for w, v := range words {
				if v&^p.missing[i][w] != 0 {
					return nil, false, fmt.Errorf("%w: pages near %d of region %d are said to be missing, and were sent before the hand-over", ErrProtocol, w*64, i)
				}
			}
		}
	}
}

func (p *pageServer) drained(b []byte) error {
	var a Arrival
	if err := decodeJSON(wire.Drained, b, &a); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Arrival, p.all = a, true
	return nil
}

// listen waits for DRAINED.
func (p *pageServer) listen(c *wire.Conn) error {
	t, b, err := c.Recv(5 * p.dialer.o.Keepalive)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errLink, err)
	case t == wire.Refuse:
		return refusedBy(b)
	case t != wire.Drained:
		return fmt.Errorf("%w: %v instead of DRAINED", ErrProtocol, t)
	}
	if err := p.drained(b); err != nil {
		return err
	}
	return errDrained
}
