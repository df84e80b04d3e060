package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hvctl/hvctl/migrate/transport"
	"github.com/hvctl/hvctl/migrate/wire"
)

// maxGreeting bounds the connections whose first words are awaited at a time.
const maxGreeting = 16

// maxWrong is how many wrong tokens close the gate.
const maxWrong = 5

// Gate lets one destination in.
type Gate struct {
	Names   []string           // by which the VM may be asked for
	Options transport.Options  // who may ask
	Token   func(string) error // judges the one-time token
	Log     *slog.Logger
}

// Grant is who was let in.
type Grant struct {
	Key    Key
	Peer   string   // its fingerprint
	Remote net.Addr // where it asked from
}

// Wait returns when an allowed peer with the right token has asked, and leaves l
// open for its connections. Nobody else has any effect, but five wrong tokens close the gate:
// then, and when ctx ends, there is an error.
func (g *Gate) Wait(ctx context.Context, l *net.TCPListener) (Grant, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	interrupted := make(chan struct{})
	context.AfterFunc(ctx, func() {
		_ = l.SetDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	var (
		mu    sync.Mutex // guards what follows
		grant *Grant
		wrong int
		conns sync.WaitGroup
	)
	let := func(token string, to Grant) error {
		mu.Lock()
		defer mu.Unlock()
		if grant != nil {
			return errors.New("another one was faster")
		}
		if err := g.Token(token); err != nil {
			if wrong++; wrong >= maxWrong {
				cancel(fmt.Errorf("%d wrong tokens were tried; the last came from %s", wrong, to.Peer))
			}
			return err
		}
		grant = &to
		return nil
	}
	slots := make(chan struct{}, maxGreeting)
	var err error
	for {
		var c net.Conn
		if c, err = l.Accept(); err != nil {
			break
		}
		select {
		case slots <- struct{}{}:
		default: // as many as are listened to at a time
			_ = c.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			to, err := g.hear(ctx, c, let)
			if err != nil {
				g.Log.Warn("somebody asked for the VM in vain", "from", c.RemoteAddr(), "peer", to.Peer, "err", err)
				return
			}
			cancel(errGranted)
		})
	}
	cancel(err) // if nothing else has
	<-interrupted
	conns.Wait()
	mu.Lock()
	defer mu.Unlock()
	if grant == nil {
		return Grant{}, context.Cause(ctx)
	}
	return *grant, l.SetDeadline(time.Time{})
}

var errGranted = errors.New("granted")

// hear listens to one connection. Errors are told, but for those of the transport.
func (g *Gate) hear(ctx context.Context, c net.Conn, let func(string, Grant) error) (to Grant, err error) {
	to.Remote = c.RemoteAddr()
	if err := c.SetDeadline(time.Now().Add(greeting)); err != nil {
		return to, err
	}
	kind, err := readKind(c)
	if err != nil {
		return to, err
	}
	if kind != kindAsk {
		return to, fmt.Errorf("%w: a connection of kind %q before anybody was let in", ErrProtocol, kind)
	}
	t, err := transport.Server(ctx, c, g.Options)
	if err != nil {
		return to, err
	}
	to.Peer = t.Peer()
	w := wire.Accept(t, greeting)
	typ, p, err := w.Recv(greeting)
	if err != nil {
		return to, err
	}
	defer func() {
		if err != nil {
			_ = sendJSON(w, wire.Refuse, refusal{Code: "pull", Message: err.Error()})
		}
	}()
	if typ != wire.Pull {
		return to, fmt.Errorf("%w: %v instead of PULL", ErrProtocol, typ)
	}
	r, err := decodePull(p)
	if err != nil {
		return to, err
	}
	to.Key = r.Key
	if !slices.Contains(g.Names, r.VM) {
		return to, errors.New("no VM of that name is offered here") // whoever has the token knows its name
	}
	if err := let(r.Token, to); err != nil {
		return to, err
	}
	if err := sendJSON(w, wire.Welcome, granted{requestVersion}); err != nil {
		g.Log.Warn("who was let in does not hear it", "peer", to.Peer, "err", err)
	}
	return to, nil
}
