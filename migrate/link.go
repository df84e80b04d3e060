package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hvctl/hvctl/migrate/wire"
)

// lastWords is how long a REFUSE may still come on the control connection after
// a data connection has ended.
const lastWords = 200 * time.Millisecond

// message is a frame of the control connection.
type message struct {
	typ     wire.Type
	payload []byte // a copy
}

// link is the source's connections of one session: all of them or none.
type link struct {
	control *wire.Conn
	data    []*wire.Conn
	in      chan message    // closed when the control connection ends
	err     error           // why; set before in is closed
	ctx     context.Context // ends with the link
	stop    context.CancelFunc
	wg      sync.WaitGroup
	rtt     time.Duration
	told    prepared // by the destination
}

// dialer opens the links of one session.
type dialer struct {
	dial  Dial
	hello hello
	offer offer
	epoch uint32
	o     SendOptions
}

// greet opens a connection and has it welcomed. c is nil after an error.
func (d *dialer) greet(ctx context.Context, channel uint16, h hello) (c *wire.Conn, w welcome, rtt time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.o.Stall)
	defer cancel()
	nc, err := d.dial(ctx)
	if err != nil {
		return nil, w, 0, fmt.Errorf("%w: dial the destination: %w", errLink, err)
	}
	begin := time.Now()
	c = wire.NewConn(nc, channel, d.epoch, d.o.Stall)
	if w, err = d.welcome(c, h); err != nil {
		_ = nc.Close()
		return nil, w, 0, err
	}
	return c, w, time.Since(begin), nil
}

// welcome sends HELLO and receives the answer.
func (d *dialer) welcome(c *wire.Conn, h hello) (w welcome, err error) {
	if err := sendJSON(c, wire.Hello, h); err != nil {
		return w, fmt.Errorf("%w: %w", errLink, err)
	}
	t, p, err := c.Recv(d.o.Stall)
	switch {
	case err != nil:
		return w, fmt.Errorf("%w: wait for WELCOME: %w", errLink, err)
	case t == wire.Refuse:
		return w, refusedBy(p)
	case t != wire.Welcome:
		return w, fmt.Errorf("%w: %v instead of WELCOME", ErrProtocol, t)
	}
	if err := decodeJSON(t, p, &w); err != nil {
		return w, err
	}
	if w.Version < h.Min || w.Version > h.Max {
		return w, fmt.Errorf("%w: the destination chose version %d of %d to %d", ErrProtocol, w.Version, h.Min, h.Max)
	}
	return w, nil
}

// open opens all connections of the session, anew or again. When it fails,
// none is left.
func (d *dialer) open(ctx context.Context, resume bool) (*link, []uint64, error) {
	l := &link{in: make(chan message, 16)}
	l.ctx, l.stop = context.WithCancel(context.Background())
	applied, err := d.fill(ctx, l, resume)
	if err != nil {
		l.closeAll()
		return nil, nil, err
	}
	l.serve(d.o)
	return l, applied, nil
}

func (d *dialer) fill(ctx context.Context, l *link, resume bool) (applied []uint64, err error) {
	h := d.hello
	h.Role, h.Resume = roleControl, resume
	if resume {
		h.Token = ""
	}
	var w welcome
	if l.control, w, l.rtt, err = d.greet(ctx, 0, h); err != nil {
		return nil, err
	}
	d.hello.Min, d.hello.Max = w.Version, w.Version // of the whole session
	if resume && len(w.Applied) != d.offer.Streams {
		return nil, fmt.Errorf("%w: WELCOME tells of %d streams, there are %d", ErrProtocol, len(w.Applied), d.offer.Streams)
	}
	if !resume {
		if l.told, err = d.makeOffer(l.control); err != nil {
			return nil, err
		}
	}
	l.wg.Go(func() { ping(l.ctx, l.control, d.o.Keepalive) })
	h = hello{Min: w.Version, Max: w.Version, Role: roleData, Session: h.Session}
	for i := range d.offer.Streams {
		h.Stream = i
		c, _, _, err := d.greet(ctx, uint16(i+1), h)
		if err != nil {
			return nil, err
		}
		l.data = append(l.data, c)
	}
	return w.Applied, nil
}

func (d *dialer) makeOffer(c *wire.Conn) (told prepared, err error) {
	if err := sendJSON(c, wire.Offer, d.offer); err != nil {
		return told, fmt.Errorf("%w: %w", errLink, err)
	}
	t, p, err := c.Recv(d.o.Prepare)
	switch {
	case err != nil:
		return told, fmt.Errorf("%w: wait for PREPARED: %w", errLink, err)
	case t == wire.Refuse:
		return told, refusedBy(p)
	case t != wire.Prepared:
		return told, fmt.Errorf("%w: %v instead of PREPARED", ErrProtocol, t)
	}
	return decodePrepared(p)
}

// serve begins to read the connections.
func (l *link) serve(o SendOptions) {
	l.wg.Go(func() {
		defer close(l.in)
		for {
			t, p, err := l.control.Recv(5 * o.Keepalive)
			if err != nil {
				l.err = fmt.Errorf("%w: %w", errLink, err)
				return
			}
			select {
			case l.in <- message{t, bytes.Clone(p)}:
			case <-l.ctx.Done():
				l.err = fmt.Errorf("%w: closed", errLink)
				return
			}
		}
	})
	// Nothing of what the destination sends on a data connection means anything,
	// but its end does.
	for _, c := range l.data {
		l.wg.Go(func() {
			_ = c.SetReadDeadline(time.Time{}) // the handshake had one
			_, _ = io.Copy(io.Discard, c.Conn)
			_ = sleep(l.ctx, lastWords)
			_ = l.control.Close()
		})
	}
}

// ping sends PING until ctx ends or the connection breaks.
func ping(ctx context.Context, c *wire.Conn, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if c.Send(wire.Ping, nil) != nil {
				_ = c.Close()
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (l *link) closeAll() {
	l.stop()
	if l.control != nil {
		_ = l.control.Close()
	}
	for _, c := range l.data {
		_ = c.Close()
	}
	l.wg.Wait()
}

// interrupt makes whatever is being sent on the data connections fail.
func (l *link) interrupt() {
	for _, c := range l.data {
		c.Interrupt()
	}
}

// wait returns the next control message. A REFUSE is an error.
func (l *link) wait(ctx context.Context) (message, error) {
	select {
	case m, ok := <-l.in:
		switch {
		case !ok:
			return m, l.err
		case m.typ == wire.Refuse:
			return m, refusedBy(m.payload)
		}
		return m, nil
	case <-ctx.Done():
		return message{}, context.Cause(ctx)
	}
}

// ask opens a connection for one question, QUERY or ABORT, and returns the
// answer, RUNNING or REVOKED.
func (d *dialer) ask(ctx context.Context, t wire.Type, wait time.Duration) (wire.Type, error) {
	h := hello{Min: d.hello.Min, Max: d.hello.Max, Role: roleQuery, Session: d.hello.Session, VM: d.hello.VM}
	c, _, _, err := d.greet(ctx, 0, h)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if t == wire.Abort {
		err = sendJSON(c, t, refusal{Code: "abort", Message: "asked to promise not to run the machine"})
	} else {
		err = c.Send(t, nil)
	}
	if err != nil {
		return 0, err
	}
	answer, p, err := c.Recv(wait)
	switch {
	case err != nil:
		return 0, err
	case answer == wire.Refuse:
		return 0, refusedBy(p)
	case answer != wire.Running && answer != wire.Revoked:
		return 0, fmt.Errorf("%w: %v is no answer", ErrProtocol, answer)
	}
	return answer, nil
}

// isLink reports whether dialling again may help against err.
func isLink(err error) bool {
	var n net.Error
	if r, ok := errors.AsType[refusedError](err); ok { // a stream is refused when the session has lost its control connection meanwhile
		return r.code == codeStream
	}
	return errors.Is(err, errLink) || errors.As(err, &n) || errors.Is(err, net.ErrClosed) || errors.Is(err, wire.ErrCorrupt) || errors.Is(err, io.EOF)
}
