package migrate

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"time"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/sparse"
	"github.com/hvctl/hvctl/migrate/wire"
)

// Pull has pages come later.
type Pull interface {
	// Probe says why that cannot be done with this memory on this host, before
	// anything is sent.
	Probe(ram []memory.Region) error
	// Pull begins it: from now on whoever touches a page that is missing waits for it,
	// and connections are accepted by another process (a Puller's), until over is
	// called, once, by another goroutine. Its error is nil when every page is there.
	Pull(o PullOptions, ram []memory.Region, over func(error)) error
}

// pulled is what became of the latest guest that lacked pages.
type pulled struct {
	session string
	peer    string
	epoch   uint32
	over    bool
	err     error
}

// canPull says why a machine cannot be one whose pages come later.
func (r *Receiver) canPull(d Destination) error {
	if r.o.Pull == nil {
		return errors.New("this destination takes no guest whose memory follows later")
	}
	if f, ok := d.(SparseSource); !ok || f.MemoryFD() < 0 {
		return errors.New("the machine built here has no memory in a file, which pages that follow later need")
	}
	return r.o.Pull.Probe(d.Regions())
}

// deadliner is a listener whose Accept can be made to return.
type deadliner interface{ SetDeadline(time.Time) error }

// lend has Accept rest: another process accepts. The function that is returned
// ends that.
func (r *Receiver) lend() (back func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.ln.(deadliner)
	if !ok {
		return nil, errors.New("this listener cannot be lent to another process")
	}
	away := make(chan struct{})
	r.away = away
	if err := d.SetDeadline(time.Unix(1, 0)); err != nil {
		r.away = nil
		return nil, err
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		_ = d.SetDeadline(time.Time{})
		r.away = nil
		close(away)
	}, nil
}

// lent waits, if the listener is lent, until it is back, and reports whether it was.
func (r *Receiver) lent(ctx context.Context) bool {
	r.mu.Lock()
	away, ln := r.away, r.ln
	r.mu.Unlock()
	if away == nil {
		return false
	}
	select {
	case <-away:
	case <-ctx.Done():
	}
	_ = ln.(deadliner).SetDeadline(time.Time{})
	return true
}

// afterPull answers a source that serves a guest's pages when nobody needs them any
// more, or not yet.
func (r *Receiver) afterPull(c *wire.Conn, h hello) error {
	r.mu.Lock()
	p := r.pulled
	here := p != nil && p.session == h.Session && p.epoch == c.Epoch() && p.peer == peerOf(c.Conn)
	over := here && p.over
	var why error
	if here {
		why = p.err
	}
	r.mu.Unlock()
	switch {
	case over && why == nil:
		if err := sendJSON(c, wire.Welcome, welcome{Version: h.version()}); err != nil {
			return err
		}
		return sendJSON(c, wire.Drained, Arrival{})
	case over:
		return refuse(codeLost, "%w", why)
	case here:
		return refuse(codeLater, "ask again")
	}
	// The guest of a session that was decided before this process began is gone.
	rec, err := r.records.Session(h.Session).Load()
	if err == nil && rec.Peer == peerOf(c.Conn) {
		return refuse(codeLost, "the process that ran the guest here has ended")
	}
	return refuse(codeLater, "there is no such session here")
}

// addMissing notes pages that follow later.
func (s *session) addMissing(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.postcopy || s.final != nil {
		return fmt.Errorf("%w: MISSING, and OFFER did not say so, or after FINAL", ErrProtocol)
	}
	ram := s.pages[:len(s.regions)]
	if s.missing == nil {
		for _, n := range ram {
			s.missing = append(s.missing, make([]uint64, (n+63)/64))
		}
	}
	n, err := wire.DecodeMissing(p, ram, s.missing)
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: MISSING says nothing new", ErrProtocol)
	}
	return err
}

// pull makes the missing pages come when they are touched. What was sent of them
// before is stale, and dropped.
func (s *session) pull() error {
	s.mu.Lock()
	missing := s.missing
	s.mu.Unlock()
	if missing == nil {
		return nil
	}
	for i, g := range s.regions {
		if err := s.discard(g, missing[i]); err != nil {
			return err
		}
	}
	p := &pulled{session: s.offer.Session, peer: s.offer.Peer, epoch: s.epoch}
	back, err := s.r.lend()
	if err != nil {
		return err
	}
	s.r.mu.Lock()
	s.r.pulled = p
	s.r.mu.Unlock()
	err = s.r.o.Pull.Pull(PullOptions{
		Session: p.session, Epoch: p.epoch, Peer: p.peer, Pages: s.pages[:len(s.regions)], Missing: missing,
		Journal: s.r.records.Session(p.session), Keepalive: s.r.o.Keepalive, Stall: s.r.o.Stall, Log: s.r.o.Log,
	}, s.regions, func(err error) {
		s.r.mu.Lock()
		p.over, p.err = true, err
		s.r.mu.Unlock()
		back()
	})
	if err != nil {
		back()
		return err
	}
	s.send(wire.Listen, nil)
	return nil
}

// discard makes sure that none of the pages exists in the memory's file.
func (s *session) discard(g memory.Region, missing []uint64) error {
	d, ok := s.dest.(Discarder)
	if !ok {
		return errors.New("the machine cannot give pages back")
	}
	data, err := sparse.Data(s.fd, g.Offset, g.Size)
	if err != nil {
		return err
	}
	for from, n := range runsOf(data, missing) {
		if err := d.Discard(g.GPA+memory.GPA(from*pageSize), n*pageSize); err != nil {
			return err
		}
	}
	// A huge page may have been emptied instead of given back.
	if data, err = sparse.Data(s.fd, g.Offset, g.Size); err != nil {
		return err
	}
	for from := range runsOf(data, missing) {
		return fmt.Errorf("page %d of the RAM at %v cannot be given back to the host", from, g.GPA)
	}
	return nil
}

// runsOf returns the runs of pages that both bitmaps have.
func runsOf(a, b []uint64) func(func(from, n uint64) bool) {
	return func(yield func(from, n uint64) bool) {
		var from, n uint64
		for w := range a {
			for v := a[w] & b[w]; v != 0; v &= v - 1 {
				p := uint64(w*64 + bits.TrailingZeros64(v))
				if n > 0 && from+n == p {
					n++
					continue
				}
				if n > 0 && !yield(from, n) {
					return
				}
				from, n = p, 1
			}
		}
		if n > 0 {
			yield(from, n)
		}
	}
}

var _ deadliner = (*net.TCPListener)(nil)
