package migrate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/sparse"
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
	events chan event
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
	s.machine = commit.NewMachine(commit.Destination, commit.Receiving, s.do)
	if s.owner, err = r.records.Session(o.Session).Stage(s.record(commit.OwnerRecord)); err != nil {
		return nil, fmt.Errorf("stage the owner record: %w", err)
	}
	return s, nil
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

// control receives on a control connection until it ends.
func (s *session) control(c *wire.Conn) error {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { ping(ctx, c, s.r.o.Keepalive) })
	defer wg.Wait()
	defer stop()
	defer s.lost(c)
	for {
		t, p, err := c.Recv(5 * s.r.o.Keepalive)
		if err != nil {
			return err
		}
		switch t {
		case wire.State:
			err = s.addState(p)
		case wire.Final:
			err = s.setFinal(p)
		case wire.Go:
			s.post(event{commit.GotGo, nil})
		case wire.Abort:
			s.post(event{commit.GotAbort, nil})
		default:
			err = fmt.Errorf("%w: %v on the control connection", ErrProtocol, t)
		}
		if err != nil {
			return refuse("protocol", "%w", err)
		}
	}
}

// lost is what happens when a control connection ends: the data connections
// that came with it end too.
func (s *session) lost(c *wire.Conn) {
	s.mu.Lock()
	mine := s.ctl == c
	if mine {
		s.ctl = nil
		for _, d := range s.streams {
			if d != nil {
				_ = d.Close()
			}
		}
	}
	s.mu.Unlock()
	if mine {
		s.post(event{linkChanged, nil})
	}
}

// restart makes c the control connection and returns what had been applied.
func (s *session) restart(c *wire.Conn) ([]uint64, error) {
	s.restarting.Lock()
	defer s.restarting.Unlock()
	s.mu.Lock()
	old := append(slices.Clone(s.streams), s.ctl)
	s.mu.Unlock()
	for _, o := range old {
		if o != nil {
			_ = o.Close()
		}
	}
	s.handlers.Wait() // what they had received is applied, nothing more comes
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.final != nil {
		return nil, refuse("session", "the session is past copying")
	}
	s.ctl, s.state = c, nil
	go s.post(event{linkChanged, nil})
	return slices.Clone(s.applied), nil
}

func (s *session) addState(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.state)+len(p) > wire.MaxState || s.final != nil {
		return fmt.Errorf("%w: more than %d bytes of state, or after FINAL", ErrProtocol, wire.MaxState)
	}
	s.state = append(s.state, p...)
	return nil
}

func (s *session) setFinal(p []byte) error {
	c := wire.NewCursor(p)
	f := final{round: c.Uint32("round"), length: c.Uint64("length"), crc: c.Uint32("checksum")}
	c.Done()
	s.mu.Lock()
	twice := s.final != nil
	if !twice && c.Err() == nil {
		s.final = &f
	}
	s.mu.Unlock()
	if c.Err() != nil || twice {
		return fmt.Errorf("%w: FINAL twice (%v), or %w", ErrProtocol, twice, c.Err())
	}
	s.progress()
	return nil
}

// data receives one stream's memory until the connection ends.
func (s *session) data(c *wire.Conn, stream int) error {
	s.mu.Lock()
	if stream >= len(s.streams) || s.ctl == nil || s.streams[stream] != nil || int(c.Channel()) != stream+1 {
		s.mu.Unlock()
		return refuse(codeStream, "stream %d is open already, or there is none", stream)
	}
	s.streams[stream] = c
	s.handlers.Add(1)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.streams[stream] = nil
		s.mu.Unlock()
		s.handlers.Done()
	}()
	if err := sendJSON(c, wire.Welcome, welcome{Version: ProtocolVersion}); err != nil {
		return err
	}
	runs := make([]wire.Run, 0, wire.MaxRuns)
	for {
		t, p, err := c.Recv(0) // the control connection tells whether the source lives
		if err != nil {
			return err
		}
		switch t {
		case wire.Pages:
			if runs, err = s.apply(stream, p, runs[:0]); err != nil {
				return err
			}
			s.mu.Lock()
			s.applied[stream]++
			s.mu.Unlock()
		case wire.Round:
			cur := wire.NewCursor(p)
			round := cur.Uint32("round")
			if cur.Done(); cur.Err() != nil {
				return fmt.Errorf("ROUND: %w", cur.Err())
			}
			s.mu.Lock()
			s.rounds[stream] = round
			s.mu.Unlock()
			s.progress()
		default:
			return fmt.Errorf("%w: %v on a data connection", ErrProtocol, t)
		}
	}
}

// apply writes the pages of a frame, whose checksum was right, to RAM.
func (s *session) apply(stream int, payload []byte, runs []wire.Run) ([]wire.Run, error) {
	runs, data, err := wire.DecodePages(payload, s.pages, runs)
	if err != nil {
		return nil, err
	}
	s.sealing.RLock()
	defer s.sealing.RUnlock()
	if s.sealed {
		return nil, fmt.Errorf("%w: PAGES after the last round", ErrProtocol)
	}
	for _, r := range runs {
		stripe := s.stripes[r.Region] + r.Page/wire.StripePages
		if stripe%uint64(len(s.applied)) != uint64(stream) {
			return nil, fmt.Errorf("%w: a page of stripe %d on stream %d", ErrProtocol, stripe, stream)
		}
		n := 0
		if !r.Zero {
			n = int(r.Count) * pageSize
		}
		if err := s.put(r, data[:n]); err != nil {
			return nil, err
		}
		data = data[n:]
	}
	return runs, nil
}

// put gives a run of pages its content; none is zeroes.
func (s *session) put(r wire.Run, data []byte) error {
	have := s.have[r.Region]
	at, size := r.Page*pageSize, uint64(r.Count)*pageSize
	fresh := true
	for p := r.Page; p < r.Page+uint64(r.Count); p++ {
		fresh = fresh && have[p/64]>>(p%64)&1 == 0
	}
	if r.Zero && fresh {
		return nil
	}
	sparse.SetRun(have, r.Page, r.Page+uint64(r.Count))
	if int(r.Region) >= len(s.regions) {
		return s.volumes[int(r.Region)-len(s.regions)].put(at, size, data)
	}
	g := s.regions[r.Region]
	if r.Zero {
		s.zero(g, at, size)
		return nil
	}
	if fresh && s.fd >= 0 {
		// Pages that do not exist yet cost two thirds when the kernel makes and fills
		// them in one go, instead of our touching them one by one.
		_, err := unix.Pwrite(s.fd, data, int64(g.Offset+at))
		if !errors.Is(err, unix.EINVAL) { // huge pages know no write
			return os.NewSyscallError("pwrite", err)
		}
	}
	copy(g.Bytes[at:at+size], data)
	return nil
}

// put writes size bytes at offset at, zeroes when data is nil. What is beyond
// the end of the disk is left out.
func (v Volume) put(at, size uint64, data []byte) error {
	size = min(size, v.Size-at)
	if len(data) > 0 {
		_, err := v.File.WriteAt(data[:size], int64(at))
		return err
	}
	err := unix.Fallocate(int(v.File.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at), int64(size))
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = v.File.WriteAt(make([]byte, size), int64(at))
	}
	return err
}

// zero makes pages zero; a whole stripe is given back to the host.
func (s *session) zero(g memory.Region, at, size uint64) {
	if d, ok := s.dest.(Discarder); ok && size == wire.StripePages*pageSize {
		if d.Discard(g.GPA+memory.GPA(at), size) == nil {
			return
		}
	}
	clear(g.Bytes[at : at+size])
}

func (s *session) seal() {
	s.sealing.Lock()
	s.sealed = true
	s.sealing.Unlock()
}

// progress tells the source of a round that all streams have ended, and begins
// to load when that was the last.
func (s *session) progress() {
	s.mu.Lock()
	round := slices.Min(s.rounds)
	var b []byte
	ctl := s.ctl
	if round > s.told {
		s.told = round
		b = binary.LittleEndian.AppendUint32(nil, round)
		for _, n := range s.applied {
			b = binary.LittleEndian.AppendUint64(b, n)
		}
	}
	complete := s.final != nil && round >= s.final.round
	s.mu.Unlock()
	if b != nil && !complete {
		s.flushAhead()
	}
	if b != nil && ctl != nil {
		_ = ctl.Send(wire.Applied, b) // a lost one breaks the link, which both sides see
	}
	if complete {
		s.post(event{commit.Loaded, nil})
	}
}

// flushAhead has the kernel begin to write the disks, so that little is left to
// sync while the guest stands still.
func (s *session) flushAhead() {
	for _, v := range s.volumes {
		_ = unix.SyncFileRange(int(v.File.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE) // advice
	}
}

// load gives the machine its state. All memory is there.
func (s *session) load() error {
	if s.machine.State() != commit.Receiving {
		return nil
	}
	s.seal()
	s.mu.Lock()
	state, f := s.state, s.final
	s.mu.Unlock()
	if uint64(len(state)) != f.length || wire.CRC(0, state) != f.crc {
		return fmt.Errorf("%w: %d bytes of state came, FINAL says %d, or their checksum is wrong", ErrProtocol, len(state), f.length)
	}
	c := wire.NewCursor(state)
	sections := wire.Sections(c)
	if c.Done(); c.Err() != nil {
		return fmt.Errorf("state: %w", c.Err())
	}
	for _, v := range s.volumes {
		// The guest believes durable what it has flushed at the source.
		if err := v.File.Sync(); err != nil {
			return fmt.Errorf("sync disk %s: %w", v.Name, err)
		}
	}
	return s.dest.LoadState(sections)
}
