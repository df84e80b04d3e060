package agent

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// sendWait bounds how long one control message may take to leave: a guest that
// does not read its socket loses the connection.
const sendWait = 10 * time.Second

// maxPending bounds the calls whose answer is outstanding.
const maxPending = 1024

// channel is the jrpc2 channel of one control connection. It lets through to
// the RPC library only answers to calls that are pending; notifications go
// straight to the session, in order, on the reader's goroutine, so that nothing
// a guest sends is ever queued. (The library starts a goroutine per message and
// would deliver notifications out of order and without bound.)
type channel struct {
	*guestproto.Framer
	conn   net.Conn
	notify func(method string, params json.RawMessage) error

	mu        sync.Mutex
	pending   map[int64]struct{}
	delivered int           // answers handed to the library whose calls have not returned
	quiet     chan struct{} // not nil: closed when delivered is 0
}

func newChannel(conn net.Conn, notify func(string, json.RawMessage) error) *channel {
	return &channel{Framer: guestproto.NewFramer(conn), conn: conn, notify: notify, pending: map[int64]struct{}{}}
}

// envelope is the outside of any JSON-RPC message.
type envelope struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

// Send sends one call of ours.
func (c *channel) Send(msg []byte) error {
	var e envelope
	if err := json.Unmarshal(msg, &e); err != nil {
		return err
	}
	id, err := strconv.ParseInt(string(e.ID), 10, 64)
	if err != nil {
		return fmt.Errorf("call without a number: %w", err)
	}
	c.mu.Lock()
	full := len(c.pending) >= maxPending
	if !full {
		c.pending[id] = struct{}{}
	}
	c.mu.Unlock()
	if full {
		return fmt.Errorf("%w: %d calls are unanswered", ErrGuest, maxPending)
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(sendWait)); err != nil {
		return err
	}
	return c.Framer.Send(msg)
}

// Recv returns the next answer to a call of ours. Anything else that is not a
// valid notification ends the connection with an error wrapping ErrGuest.
func (c *channel) Recv() ([]byte, error) {
	for {
		msg, err := c.Framer.Recv()
		if err != nil {
			c.settle()
			return nil, err
		}
		var e envelope
		if err := json.Unmarshal(msg, &e); err != nil {
			return nil, fmt.Errorf("%w: message is not a JSON object", ErrGuest)
		}
		switch {
		case e.Method != "" && e.ID == nil:
			if err := c.notify(e.Method, e.Params); err != nil {
				return nil, err
			}
		case e.Method != "":
			return nil, fmt.Errorf("%w: it sent a request, only notifications are allowed", ErrGuest)
		default:
			if !c.answered(e.ID) {
				return nil, fmt.Errorf("%w: answer to a call that is not pending", ErrGuest)
			}
			return msg, nil
		}
	}
}

func (c *channel) answered(raw json.RawMessage) bool {
	id, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.pending[id]
	delete(c.pending, id)
	if ok {
		c.delivered++
	}
	return ok
}

// settleWait bounds settle; only a call that was given up at the very moment
// its answer came makes it last that long.
const settleWait = time.Second

// settle waits until every answer that was delivered has reached its caller.
// The library delivers on a goroutine of its own, and forgets what is on its
// way when the connection ends; a guest that answers and then powers off is
// nothing unusual.
func (c *channel) settle() {
	c.mu.Lock()
	if c.delivered <= 0 {
		c.mu.Unlock()
		return
	}
	c.quiet = make(chan struct{})
	quiet := c.quiet
	c.mu.Unlock()
	select {
	case <-quiet:
	case <-time.After(settleWait):
	}
}

// consumed says that a call has returned.
func (c *channel) consumed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.delivered = max(0, c.delivered-1)
	if c.delivered == 0 && c.quiet != nil {
		close(c.quiet)
		c.quiet = nil
	}
}
