package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Puller is the destination's side: it keeps one connection parked at the source.
type Puller struct {
	Key   Key
	Dial  func(context.Context) (net.Conn, error) // to the source
	Local func(context.Context) (net.Conn, error) // to where the owner listens
	// Patience is how long the source may not be reached; 10 minutes, as for a guest
	// that waits for memory.
	Patience time.Duration
	Log      *slog.Logger
}

const (
	// maxJoined bounds the connections that a source can have at a time.
	maxJoined = 64
	// joinBuffer is what is carried at once, in bytes.
	joinBuffer = 256 << 10
	// localGrace is how long the owner may take to listen.
	localGrace  = 15 * time.Second
	maxBackoff  = 2 * time.Second
	leastWait   = 50 * time.Millisecond
	otherWayOut = 5 * time.Second // for the second half of a connection to end after the first
)

var (
	errEnd   = errors.New("the source needs no connections any more")
	errOwner = errors.New("nobody listens here any more")
)

// Run returns nil when the source needs no connections any more, or nobody listens
// here, and all that were joined have ended; an error when the source was not reached for as
// long as Patience says.
func (p *Puller) Run(ctx context.Context) error {
	if p.Patience == 0 {
		p.Patience = 10 * time.Minute
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var joined sync.WaitGroup
	defer joined.Wait()
	slots := make(chan struct{}, maxJoined)
	seen, wait := time.Now(), leastWait
	for n := uint64(1); ; n++ {
		c, err := p.park(ctx, n, func() { seen, wait = time.Now(), leastWait })
		switch {
		case errors.Is(err, errEnd), errors.Is(context.Cause(ctx), errOwner):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			if time.Since(seen) > p.Patience {
				return fmt.Errorf("the source was not reached for %v: %w", p.Patience, err)
			}
			p.Log.Info("the source is not reached", "err", err)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
			wait = min(2*wait, maxBackoff)
			continue
		}
		seen = time.Now()
		select {
		case slots <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		joined.Go(func() {
			defer func() { <-slots }()
			if err := p.join(ctx, c); errors.Is(err, errOwner) {
				cancel(err)
			}
		})
	}
}

// park makes a connection and returns it when the source has taken it. up is called
// when it is parked.
func (p *Puller) park(ctx context.Context, n uint64, up func()) (net.Conn, error) {
	c, err := p.Dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := p.wait(c, n, up); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// wait parks c with ticket n, and waits until it is taken.
func (p *Puller) wait(c net.Conn, n uint64, up func()) error {
	if err := c.SetDeadline(time.Now().Add(greeting)); err != nil {
		return err
	}
	t := p.Key.ticket(n)
	if _, err := c.Write(append(append([]byte(magic), kindPark), t[:]...)); err != nil {
		return err
	}
	if err := expect(c, sayParked); err != nil {
		return err
	}
	up()
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return expect(c, sayTaken)
}

func expect(c net.Conn, want byte) error {
	got, err := readByte(c)
	switch {
	case err != nil:
		return err
	case got == sayEnd:
		return errEnd
	case got != want:
		return fmt.Errorf("%w: the source says %q instead of %q", ErrProtocol, got, want)
	}
	return nil
}

// join carries bytes between the source and the owner until either ends.
func (p *Puller) join(ctx context.Context, c net.Conn) error {
	defer c.Close()
	local, err := p.owner(ctx)
	if err != nil {
		return err
	}
	defer local.Close()
	var both sync.WaitGroup
	carry := func(to, from net.Conn) {
		// Not by splice(2), which on kernels before 6.5 hands a unix socket one page at
		// a time. Its end is all that is to be known.
		_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, joinBuffer))
		if w, ok := to.(interface{ CloseWrite() error }); ok {
			_ = w.CloseWrite()
		}
		_ = to.SetReadDeadline(time.Now().Add(otherWayOut))
	}
	both.Go(func() { carry(local, c) })
	both.Go(func() { carry(c, local) })
	both.Wait()
	return nil
}

// owner connects to where the owner listens, or will in a moment.
func (p *Puller) owner(ctx context.Context) (net.Conn, error) {
	until := time.Now().Add(localGrace)
	for {
		c, err := p.Local(ctx)
		if err == nil {
			return c, nil
		}
		if time.Now().After(until) {
			p.Log.Info("nobody listens for the source's connections", "err", err)
			return nil, errOwner
		}
		select {
		case <-time.After(leastWait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
