package migrate

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hvctl/hvctl/migrate/wire"
)

// maxFacts bounds a question about the destination and its answer, in bytes.
const maxFacts = 256 << 10

// Inquire asks the destination about itself, before anything is offered. It has
// no effect there, and needs no token. Question and answer are opaque to this
// package; the answer comes from the peer.
func Inquire(ctx context.Context, dial Dial, question json.RawMessage, o SendOptions) (json.RawMessage, error) {
	if len(question) > maxFacts {
		return nil, fmt.Errorf("a question of %d bytes, at most %d are sent", len(question), maxFacts)
	}
	o = o.withDefaults()
	h := hello{Min: minVersion, Max: ProtocolVersion, Role: roleFacts, Session: newSessionID(), VM: o.VM, Build: o.Build}
	d := &dialer{dial: dial, hello: h, epoch: 1, o: o}
	c, _, _, err := d.greet(ctx, 0, h)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := c.Send(wire.Ask, question); err != nil {
		return nil, err
	}
	t, p, err := c.Recv(o.Stall)
	switch {
	case err != nil:
		return nil, fmt.Errorf("wait for FACTS: %w", err)
	case t == wire.Refuse:
		return nil, refusedBy(p)
	case t != wire.Facts || len(p) > maxFacts:
		return nil, fmt.Errorf("%w: %v of %d bytes instead of FACTS", ErrProtocol, t, len(p))
	}
	return append(json.RawMessage(nil), p...), nil
}

// facts answers an inquiry.
func (r *Receiver) facts(ctx context.Context, c *wire.Conn, h hello) error {
	if r.o.Facts == nil {
		return refuse("facts", "nothing is told about this host")
	}
	if err := sendJSON(c, wire.Welcome, welcome{Version: h.version()}); err != nil {
		return err
	}
	t, p, err := c.Recv(r.o.Stall)
	if err != nil {
		return err
	}
	if t != wire.Ask || len(p) > maxFacts {
		return refuse("protocol", "%v of %d bytes instead of ASK", t, len(p))
	}
	answer, err := r.o.Facts(ctx, append(json.RawMessage(nil), p...))
	if err != nil {
		return refuse("facts", "%w", err)
	}
	return c.Send(wire.Facts, answer)
}
