package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hvctl/hvctl/migrate/handoff"
)

// takeTimeout is how long a connection is waited for that is asked for.
const takeTimeout = 8 * time.Second

// Desk hands the destination's connections to the source's owner, which asks for them
// over a handoff.Pair as it would ask for a dialled one (transport.Options.Through).
type Desk struct {
	Listener *net.TCPListener
	Key      Key
	Log      *slog.Logger

	mu     sync.Mutex // guards what follows
	last   uint64     // the highest ticket that was used
	over   bool
	parked chan *net.TCPConn // the latest, if nobody has taken it
}

// Serve works until the other end of f is closed, that is until the owner knows
// what became of its VM. Then the destination is told.
func (d *Desk) Serve(f *os.File) error {
	d.parked = make(chan *net.TCPConn, 1)
	var conns sync.WaitGroup
	conns.Go(func() { d.accept(&conns) })
	defer conns.Wait()
	defer d.end()
	for {
		if _, err := handoff.Hear(f, 0); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := d.answer(f); err != nil {
			return err
		}
	}
}

// accept parks what comes until the listener is closed.
func (d *Desk) accept(conns *sync.WaitGroup) {
	slots := make(chan struct{}, maxGreeting)
	for {
		c, err := d.Listener.AcceptTCP()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			if err := d.greet(c); err != nil {
				d.Log.Info("a connection is not the destination's", "from", c.RemoteAddr(), "err", err)
				_ = c.Close()
			}
		})
	}
}

// greet parks a connection whose ticket is good, in place of the one before.
func (d *Desk) greet(c *net.TCPConn) error {
	if err := c.SetDeadline(time.Now().Add(greeting)); err != nil {
		return err
	}
	kind, err := readKind(c)
	if err != nil {
		return err
	}
	if kind != kindPark {
		return fmt.Errorf("%w: kind %q after somebody was let in", ErrProtocol, kind)
	}
	var t ticket
	if _, err := io.ReadFull(c, t[:]); err != nil {
		return err
	}
	n, ok := d.Key.check(t)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !ok:
		return fmt.Errorf("%w: its ticket is not made with the key", ErrProtocol)
	case n <= d.last:
		return fmt.Errorf("%w: ticket %d was used before", ErrProtocol, n)
	}
	d.last = n
	word := byte(sayParked)
	if d.over {
		word = sayEnd
	}
	if _, err := c.Write([]byte{word}); err != nil {
		return err
	}
	if d.over {
		return c.Close()
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	select {
	case old := <-d.parked: // broken, for the destination has made another
		_ = old.Close()
	default:
	}
	d.parked <- c
	return nil
}

// answer gives the next connection to whoever asked at f.
func (d *Desk) answer(f *os.File) error {
	ctx, cancel := context.WithTimeout(context.Background(), takeTimeout)
	defer cancel()
	for {
		select {
		case c := <-d.parked:
			err := d.lend(f, c)
			_ = c.Close()
			if errors.Is(err, errDead) {
				continue
			}
			return err
		case <-ctx.Done():
			return handoff.Tell(f, fmt.Sprintf("no connection has come from the destination for %v", takeTimeout))
		}
	}
}

var errDead = errors.New("the connection is dead")

func (d *Desk) lend(f *os.File, c *net.TCPConn) error {
	// It says nothing while it is parked: what can be read is its end.
	if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return errDead
	}
	if _, err := readByte(c); !errors.Is(err, os.ErrDeadlineExceeded) {
		return errDead
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return errDead
	}
	if _, err := c.Write([]byte{sayTaken}); err != nil {
		return errDead
	}
	file, err := c.File()
	if err != nil {
		return handoff.Tell(f, err.Error())
	}
	defer file.Close()
	return handoff.Lend(f, file)
}

// end tells the destination that nothing more is asked for. Whoever comes in the
// next moment hears it, too.
func (d *Desk) end() {
	d.mu.Lock()
	d.over = true
	d.mu.Unlock()
	select {
	case c := <-d.parked:
		_, _ = c.Write([]byte{sayEnd}) // or it finds out by itself
		_ = c.Close()
	case <-time.After(lastCall):
	}
	_ = d.Listener.Close()
}

// lastCall is how long a destination that has nothing parked may take to come back.
const lastCall = 3 * time.Second
