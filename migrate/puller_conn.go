package migrate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

func (p *Puller) accept(ctx context.Context, l net.Listener, conns *sync.WaitGroup) {
	slots := make(chan struct{}, 8)
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() == nil {
				p.finish(fmt.Errorf("accept the source: %w", err))
			}
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = nc.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			defer func() { _ = nc.Close() }()
			stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
			defer stop()
			if err := p.serve(ctx, nc); err != nil && ctx.Err() == nil {
				p.o.Log.Info("connection ended", "peer", peerOf(nc), "err", err)
			}
		})
	}
}

// serve does what the first frame of a connection asks for.
func (p *Puller) serve(ctx context.Context, nc net.Conn) (err error) {
	c, h, err := greeted(ctx, nc, p.o.Stall)
	defer func() {
		if told, ok := errors.AsType[errRefuse](err); ok && c != nil {
			_ = sendJSON(c, wire.Refuse, refusal{Code: told.code, Message: told.err.Error()})
		}
	}()
	if err != nil {
		return err
	}
	if h.Session != p.o.Session || c.Epoch() != p.o.Epoch || peerOf(nc) != p.o.Peer {
		return refuse("session", "there is no such session here")
	}
	switch h.Role {
	case rolePush, roleFault:
	case roleQuery:
		return p.query(c, h)
	default:
		return refuse("busy", "a guest is running here whose memory is not all there yet")
	}
	if err := sendJSON(c, wire.Welcome, welcome{Version: h.version()}); err != nil {
		return err
	}
	stop, cancel := context.WithCancel(ctx)
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer cancel()
	if h.Role == rolePush {
		if err := p.begin(c); err != nil {
			return err
		}
	}
	p.enter(h.Role, c)
	defer p.leave(h.Role, c)
	pinging.Go(func() { ping(stop, c, p.o.Keepalive) })
	return p.receive(c)
}

// begin tells what is missing.
func (p *Puller) begin(c *wire.Conn) error {
	p.mu.Lock()
	var now [][]uint64
	for _, m := range p.o.Missing {
		now = append(now, append([]uint64(nil), m...))
	}
	p.mu.Unlock()
	if err := wire.AppendMissing(now, func(b []byte) error { return c.Send(wire.Missing, b) }); err != nil {
		return err
	}
	return c.Send(wire.Missing, nil)
}

// enter makes c the connection of its kind, in place of another.
func (p *Puller) enter(r role, c *wire.Conn) {
	p.mu.Lock()
	at := &p.push
	if r == roleFault {
		at = &p.fault
	}
	if *at != nil {
		_ = (*at).Close()
	}
	*at, p.seen = c, time.Now()
	var asked []cursor
	for at, a := range p.asked {
		asked = append(asked, at)
		if r == roleFault {
			p.asked[at] = asking{a.since, time.Now()}
		}
	}
	p.mu.Unlock()
	if r == roleFault {
		for _, a := range asked {
			p.fetch(c, a)
		}
	}
}

func (p *Puller) leave(r role, c *wire.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r == roleFault && p.fault == c {
		p.fault = nil
	}
	if r == rolePush && p.push == c {
		p.push, p.seen = nil, time.Now()
		if p.over {
			select {
			case p.drained <- struct{}{}:
			default:
			}
		}
	}
}

// receive takes pages until the connection ends.
func (p *Puller) receive(c *wire.Conn) error {
	runs := make([]wire.Run, 0, wire.MaxRuns)
	for {
		t, b, err := c.Recv(5 * p.o.Keepalive)
		if err != nil {
			return err
		}
		switch t {
		case wire.Pages:
			if runs, err = p.take(b, runs[:0]); err != nil {
				return refuse("protocol", "%w", err)
			}
		case wire.Abort:
			var why refusal
			if err := decodeJSON(t, b, &why); err != nil {
				return refuse("protocol", "%w", err)
			}
			p.finish(fmt.Errorf("%w: %s", ErrLost, printable(why.Message)))
			return nil
		default:
			return refuse("protocol", "%w: %v on a connection for pages", ErrProtocol, t)
		}
	}
}

// query answers by what is on disk; what is not there was not decided yet.
func (p *Puller) query(c *wire.Conn, h hello) error {
	if err := sendJSON(c, wire.Welcome, welcome{Version: h.version()}); err != nil {
		return err
	}
	if _, _, err := c.Recv(p.o.Stall); err != nil {
		return err
	}
	switch r, err := p.o.Journal.Load(); {
	case err != nil:
		return refuse(codeLater, "ask again")
	case r.Verdict == commit.OwnerRecord:
		return c.Send(wire.Running, nil)
	case r.Verdict == commit.RevokedRecord:
		return c.Send(wire.Revoked, nil)
	default:
		return refuse(codeLater, "ask again")
	}
}
