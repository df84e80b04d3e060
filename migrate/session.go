package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

// event is something for a session's own goroutine.
type event struct {
	what  commit.Event
	reply *wire.Conn // who gets the answer besides the control connection
}

// session is the destination's side of one session. Its own goroutine, run,
// drives the commit rule; one goroutine per connection receives.
type session struct {
	r       *Receiver
	offer   Offer
	epoch   uint32
	regions []memory.Region
	volumes []Volume // counted on after the regions
	pages   []uint64 // sizes of both
	stripes []uint64 // number of the first stripe of each
	fd      int      // file behind the RAM, or -1
	// have says which pages may hold something else than zeroes. A stripe's words
	// belong to the goroutine of its stream.
	have   [][]uint64
	huge   []bool      // per stripe: a huge page is behind it; belongs to its stream, too
	small  atomic.Bool // huge pages cannot be had
	events chan event
	staged time.Duration // what it took to write a record
	done   chan struct{} // closed when run has ended

	// Only run's goroutine uses these.
	machine *commit.Machine
	dest    Destination
	owner   commit.Staged // the record, ready to be published
	reply   *wire.Conn
	why     error

	// sealed ends the time in which memory may change: applying a frame holds it
	// for reading, sealing for writing.
	sealing sync.RWMutex
	sealed  bool

	restarting sync.Mutex // held while the connections are replaced

	mu       sync.Mutex // guards what follows
	ctl      *wire.Conn // nil while the link is broken
	streams  []*wire.Conn
	handlers sync.WaitGroup // of the data connections
	applied  []uint64       // frames of pages, per stream
	rounds   []uint32       // the last ROUND, per stream
	told     uint32         // the last APPLIED
	state    []byte
	final    *final
	missing  [][]uint64 // of the RAM, what follows later; nil when nothing does
	postcopy bool       // it may
}

// final is what FINAL says.
type final struct {
	round  uint32
	length uint64
	crc    uint32
}

func newSession(r *Receiver, c *wire.Conn, o Offer, streams int, d Destination) (s *session, err error) {
	s = &session{
		r: r, offer: o, epoch: c.Epoch(), regions: d.Regions(), volumes: volumesOf(d), dest: d, ctl: c, fd: -1,
		events: make(chan event), done: make(chan struct{}),
		streams: make([]*wire.Conn, streams), applied: make([]uint64, streams), rounds: make([]uint32, streams),
	}
	if f, ok := d.(SparseSource); ok {
		s.fd = f.MemoryFD()
	}
	for _, g := range s.regions {
		s.pages = append(s.pages, g.Size/pageSize)
	}
	for _, v := range s.volumes {
		s.pages = append(s.pages, v.pages())
	}
	first := uint64(0)
	for _, n := range s.pages {
		s.stripes = append(s.stripes, first)
		s.have = append(s.have, make([]uint64, (n+63)/64))
		first += (n + wire.StripePages - 1) / wire.StripePages
	}
	s.huge = make([]bool, first)
	s.machine = commit.NewMachine(commit.Destination, commit.Receiving, s.do)
	begin := time.Now()
	if s.owner, err = r.records.Session(o.Session).Stage(s.record(commit.OwnerRecord)); err != nil {
		return nil, fmt.Errorf("stage the owner record: %w", err)
	}
	s.staged = time.Since(begin)
	return s, nil
}

// rehearse finds out what the hand-over will take, and makes it take less.
func (s *session) rehearse() (p prepared) {
	d, ok := s.dest.(Rehearser)
	if !ok {
		return prepared{handover: s.staged}
	}
	for range 2 { // the first time is the one that makes ready
		begin := time.Now()
		n, err := d.Rehearse()
		if err != nil {
			s.r.o.Log.Warn("rehearse loading the state", "err", err)
			return prepared{handover: s.staged}
		}
		p = prepared{handover: s.staged + time.Since(begin), state: uint64(n)}
	}
	return p
}

// post hands an event to the session, unless it is over.
func (s *session) post(e event) bool {
	select {
	case s.events <- e:
		return true
	case <-s.done:
		return false
	}
}

// linkChanged is an event without a meaning of its own: the link was lost or is
// back, so the time that counts may be another.
const linkChanged commit.Event = "link"

// run is the session's life.
func (s *session) run() {
	defer close(s.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		expiry := s.arm(timer)
		select {
		case e := <-s.events:
			s.handle(e)
		case <-timer.C:
			if expiry == commit.Fail {
				s.why = errors.New("the source did not come back")
			}
			s.handle(event{what: expiry})
		}
		switch s.machine.State() {
		case commit.Running, commit.Revoked, commit.Gone:
			s.end()
			return
		default: // it goes on
		}
	}
}

// arm sets the timer for the state and returns what its end means.
func (s *session) arm(timer *time.Timer) commit.Event {
	timer.Stop()
	switch s.machine.State() {
	case commit.Receiving:
		s.mu.Lock()
		broken := s.ctl == nil
		s.mu.Unlock()
		if broken {
			timer.Reset(s.r.o.Linger)
		}
		return commit.Fail
	case commit.Ready:
		timer.Reset(s.r.o.Go)
		return commit.Expired
	default:
		timer.Reset(time.Second)
		return commit.Retry
	}
}

func (s *session) handle(e event) {
	s.reply = e.reply
	defer func() { s.reply = nil }()
	if e.what == commit.Loaded {
		if err := s.load(); err != nil {
			s.why = err
			s.send(wire.Refuse, refusal{Code: "state", Message: err.Error()})
			e.what = commit.Fail
		}
	}
	if err := s.machine.Fire(e.what); err != nil {
		s.why = err
		s.r.o.Log.Error("migration", "session", s.offer.Session, "err", err)
	}
}

// end tells the outcome and lets the next session come.
func (s *session) end() {
	s.owner.Discard()
	o := Outcome{Offer: s.offer, State: s.machine.State(), Err: s.why}
	if o.State == commit.Running {
		o.Destination, o.Err = s.dest, nil
		if a, ok := s.dest.(Announcer); ok {
			if err := a.Announce(context.Background()); err != nil {
				s.r.o.Log.Warn("announce the guest to the network", "err", err)
			}
		}
	} else if o.Err == nil {
		o.Err = fmt.Errorf("the session ended as %s", o.State)
	}
	s.r.mu.Lock()
	s.r.session = nil
	s.r.full = s.r.o.Once && o.State == commit.Running
	s.r.mu.Unlock()
	s.mu.Lock()
	streams := slices.Clone(s.streams)
	s.mu.Unlock()
	if o.State == commit.Gone {
		streams = append(streams, s.current())
	}
	for _, c := range streams {
		if c != nil {
			_ = c.Close()
		}
	}
	select {
	case s.r.outcomes <- o:
	default:
		s.r.o.Log.Error("nobody asks for the outcomes of migrations", "session", s.offer.Session)
	}
}

// current returns the control connection, or nil.
func (s *session) current() *wire.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctl
}

// do performs one action of the commit rule.
func (s *session) do(a commit.Action) error {
	s.r.o.Log.Debug("migrate", "action", a, "session", s.offer.Session)
	ctx := context.Background() // nobody can call this off
	switch a {
	case commit.SendReady:
		s.send(wire.Ready, nil)
	case commit.SendRunning:
		s.send(wire.Running, nil)
	case commit.SendRevoked:
		s.send(wire.Revoked, nil)
	case commit.TakeLocks:
		if l, ok := s.dest.(Locks); ok {
			return l.Acquire(ctx)
		}
	case commit.ReleaseLocks:
		if l, ok := s.dest.(Locks); ok {
			if err := l.Release(ctx); err != nil {
				s.r.o.Log.Warn("release locks", "err", err)
			}
		}
	case commit.ResumeGuest:
		return s.dest.Resume(ctx)
	case commit.DropGuest:
		s.seal()
		s.r.o.Drop(s.dest)
		s.dest = nil
	case commit.WriteOwner:
		return s.owner.Publish()
	case commit.WriteRevoked:
		return commit.Store(s.r.records.Session(s.offer.Session), s.record(commit.RevokedRecord))
	default:
		return fmt.Errorf("the destination has no way to %s", a)
	}
	return nil
}

func (s *session) record(v commit.Verdict) commit.Record {
	return commit.Record{Verdict: v, Session: s.offer.Session, Epoch: s.epoch, VM: s.offer.VM, Peer: s.offer.Peer, At: time.Now().UTC()}
}

// send tells the source, on the control connection and where it asked. What
// cannot be sent is a lost message.
func (s *session) send(t wire.Type, v any) {
	for _, c := range []*wire.Conn{s.current(), s.reply} {
		if c == nil {
			continue
		}
		var err error
		if v != nil {
			err = sendJSON(c, t, v)
		} else {
			err = c.Send(t, nil)
		}
		if err != nil {
			s.r.o.Log.Warn("message lost", "type", t, "err", err)
		}
	}
}
