package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

// Offer is the machine that a source wants to send. All of it comes from the
// source.
type Offer struct {
	VM          string
	Session     string
	Peer        string // who is at the other end, as far as the transport knows
	Build       string
	Description json.RawMessage
	Plan        json.RawMessage
	Regions     []memory.Span
	Volumes     []Volume // without files: names and sizes
}

// ReceiveOptions says what a Receiver does with what arrives. Prepare is set;
// zero values of the others mean the defaults given.
type ReceiveOptions struct {
	// Prepare judges the offer and builds the machine, with the offered regions,
	// paused, nothing opened for writing. Its error's text is what the source is
	// told.
	Prepare func(ctx context.Context, o Offer) (Destination, error)
	// Drop frees a machine that will never run here.
	Drop func(Destination)
	// Facts answers an inquiry, which may come at any time; nil refuses. Its error's
	// text is what the source is told.
	Facts func(ctx context.Context, question json.RawMessage) (json.RawMessage, error)
	// Image lets in an image that is carried along, while no session is under way: it
	// returns where to write it, or, when the image is here, its name. Its error's text
	// is what the source is told; nil refuses all, and so does a Token.
	Image func(ctx context.Context, o ImageOffer) (sink ImageSink, name string, err error)
	// Token judges a one-time token; nil needs none.
	Token func(token string) error
	// Pull has the pages come later that a guest lacks (post-copy); nil refuses offers
	// that may need it.
	Pull Pull
	// Done is called when a source says that it is on record there who has the machine:
	// it asks nothing any more. Not every source does. nil is fine.
	Done func()
	// Once makes the receiver take one machine; when it runs, only questions about
	// past sessions are answered.
	Once bool

	Go        time.Duration // from READY to giving up on GO; 5 s
	Linger    time.Duration // keep a session whose link broke; 60 s
	Stall     time.Duration // longest time without any progress of a link; 10 s
	Keepalive time.Duration // between PINGs; 2 s
	Log       *slog.Logger  // nil is silence
}

// Outcome is how a session that was prepared ended.
type Outcome struct {
	Offer Offer
	State commit.State // running, revoked or gone
	// Destination is the running machine; nil otherwise.
	Destination Destination
	Err         error // why it does not run here
}

// Receiver takes in machines, one at a time, and answers for those it took or
// refused before.
type Receiver struct {
	records  *commit.Dir
	o        ReceiveOptions
	outcomes chan Outcome

	mu      sync.Mutex // guards what follows, and the records of sessions that are over
	session *session
	busy    bool // a control connection is being judged
	full    bool // the one machine has come
	pulled  *pulled
	away    chan struct{} // closed when connections are ours again; nil: they are
	ln      net.Listener
}

// maxRecords bounds the sessions on record that a peer can make by asking.
const maxRecords = 4096

// maxConns bounds the connections served at a time.
const maxConns = 64

// NewReceiver returns a receiver that keeps its decisions in records.
func NewReceiver(records *commit.Dir, o ReceiveOptions) *Receiver {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Go, 5*time.Second)
	def(&o.Linger, time.Minute)
	def(&o.Stall, 10*time.Second)
	def(&o.Keepalive, 2*time.Second)
	if o.Drop == nil {
		o.Drop = func(Destination) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Receiver{records: records, o: o, outcomes: make(chan Outcome, 16)}
}

// Outcomes returns the channel on which every prepared session's end is told.
func (r *Receiver) Outcomes() <-chan Outcome { return r.outcomes }

// Serve accepts connections until ctx ends or the listener fails, and returns
// when the last has been served and no session is left: one that has not reached
// READY is given up, one that waits for GO ends with its time. Only after that
// may the records be closed.
func (r *Receiver) Serve(ctx context.Context, l net.Listener) error {
	var conns sync.WaitGroup
	defer func() {
		conns.Wait()
		r.mu.Lock()
		s := r.session
		r.mu.Unlock()
		if s == nil {
			return
		}
		s.post(event{commit.Fail, nil})
		select {
		case <-s.done:
		case <-time.After(r.o.Go + r.o.Stall): // its records cannot be written: it has promised nothing
		}
	}()
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	slots := make(chan struct{}, maxConns)
	r.mu.Lock()
	r.ln = l
	r.mu.Unlock()
	for {
		slots <- struct{}{}
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if r.lent(ctx) {
				<-slots
				continue
			}
			return fmt.Errorf("accept migrations: %w", err)
		}
		conns.Go(func() {
			defer func() { <-slots }()
			defer func() { _ = nc.Close() }()
			stop := context.AfterFunc(serving, func() { _ = nc.Close() })
			defer stop()
			if err := r.serve(serving, nc); err != nil {
				r.o.Log.Info("migration connection ended", "peer", peerOf(nc), "err", err)
			}
		})
	}
}

// peerOf names the other end, as the transport knows it.
func peerOf(c net.Conn) string {
	if p, ok := c.(interface{ Peer() string }); ok {
		return p.Peer()
	}
	return c.RemoteAddr().Network()
}

// errRefuse is an error that the peer is told.
type errRefuse struct {
	code string
	err  error
}

func (e errRefuse) Error() string { return e.code + ": " + e.err.Error() }
func (e errRefuse) Unwrap() error { return e.err }

func refuse(code, format string, args ...any) error {
	return errRefuse{code, fmt.Errorf(format, args...)}
}

// serve does what the first frame of a connection asks for.
func (r *Receiver) serve(ctx context.Context, nc net.Conn) (err error) {
	c, h, err := greeted(ctx, nc, r.o.Stall)
	defer func() {
		if told, ok := errors.AsType[errRefuse](err); ok && c != nil {
			_ = sendJSON(c, wire.Refuse, refusal{Code: told.code, Message: told.err.Error()})
		}
	}()
	if err != nil {
		return err
	}
	switch h.Role {
	case roleControl:
		if h.Resume {
			return r.resume(ctx, c, h)
		}
		return r.begin(ctx, c, h)
	case roleData:
		s, err := r.find(c, h)
		if err != nil {
			return err
		}
		return s.data(c, h)
	case roleQuery:
		return r.query(c, h)
	case roleFacts:
		return r.facts(ctx, c, h)
	case roleImage:
		return r.image(ctx, c, h)
	case rolePush, roleFault:
		return r.afterPull(c, h)
	}
	return refuse("hello", "unknown role %q", h.Role)
}

// greeted does the handshake and receives HELLO. c is nil when there is nobody to
// tell of an error.
func greeted(ctx context.Context, nc net.Conn, stall time.Duration) (c *wire.Conn, h hello, err error) {
	if h, ok := nc.(interface{ Handshake(context.Context) error }); ok {
		ctx, cancel := context.WithTimeout(ctx, stall)
		defer cancel()
		if err := h.Handshake(ctx); err != nil {
			return nil, hello{}, err
		}
	}
	c = wire.Accept(nc, stall)
	t, p, err := c.Recv(stall)
	if err != nil {
		return nil, h, err
	}
	if t != wire.Hello {
		return nil, h, fmt.Errorf("%w: %v instead of HELLO", ErrProtocol, t)
	}
	if err := decodeJSON(t, p, &h); err != nil {
		return c, h, refuse("protocol", "%w", err)
	}
	if err := h.check(); err != nil {
		return c, h, refuse("hello", "%w", err)
	}
	return c, h, nil
}

// find returns the session that a further connection names.
func (r *Receiver) find(c *wire.Conn, h hello) (*session, error) {
	r.mu.Lock()
	s := r.session
	r.mu.Unlock()
	if s == nil || s.offer.Session != h.Session || s.offer.Peer != peerOf(c.Conn) || s.epoch != c.Epoch() {
		return nil, refuse("session", "there is no such session here")
	}
	return s, nil
}

// begin takes a new session up, if the token is good and nothing else goes on.
func (r *Receiver) begin(ctx context.Context, c *wire.Conn, h hello) error {
	if r.o.Token != nil {
		if err := r.o.Token(h.Token); err != nil {
			return refuse("token", "%w", err)
		}
	}
	r.mu.Lock()
	free := !r.busy && !r.full && r.session == nil
	r.busy = r.busy || free
	r.mu.Unlock()
	if !free {
		return refuse("busy", "another migration goes on here, or has come already")
	}
	s, err := r.prepare(ctx, c, h)
	r.mu.Lock()
	r.busy, r.session = false, s
	r.mu.Unlock()
	if err != nil {
		return err
	}
	go s.run()
	if err := c.Send(wire.Prepared, s.rehearse().encode()); err != nil {
		s.lost(c)
		return err
	}
	return s.control(c)
}

// prepare receives the offer and has the machine built.
func (r *Receiver) prepare(ctx context.Context, c *wire.Conn, h hello) (*session, error) {
	if _, err := r.records.Session(h.Session).Load(); !errors.Is(err, commit.ErrNoRecord) {
		return nil, refuse("session", "this session was decided before")
	}
	if err := sendJSON(c, wire.Welcome, welcome{Version: h.version()}); err != nil {
		return nil, err
	}
	t, p, err := c.Recv(r.o.Stall)
	if err != nil {
		return nil, err
	}
	if t != wire.Offer {
		return nil, refuse("protocol", "%v instead of OFFER", t)
	}
	var off offer
	if err := decodeJSON(t, p, &off); err != nil {
		return nil, refuse("protocol", "%w", err)
	}
	if err := off.check(); err != nil {
		return nil, refuse("offer", "%w", err)
	}
	o := Offer{VM: h.VM, Session: h.Session, Peer: peerOf(c.Conn), Build: h.Build, Description: off.Description, Plan: off.Plan}
	for _, g := range off.Regions {
		o.Regions = append(o.Regions, memory.Span{GPA: memory.GPA(g.GPA), Size: g.Size})
	}
	for _, v := range off.Volumes {
		o.Volumes = append(o.Volumes, Volume{Name: v.Name, Size: v.Size})
	}
	d, err := r.o.Prepare(ctx, o)
	if err != nil {
		return nil, refuse("prepare", "%w", err)
	}
	if err := errors.Join(sameRegions(d.Regions(), o.Regions), sameVolumes(volumesOf(d), o.Volumes)); err != nil {
		r.o.Drop(d)
		return nil, refuse("prepare", "%w", err)
	}
	if off.PostCopy {
		if err := r.canPull(d); err != nil {
			r.o.Drop(d)
			return nil, refuse("postcopy", "%w", err)
		}
	}
	s, err := newSession(r, c, o, off.Streams, d)
	if err != nil {
		r.o.Drop(d)
		return nil, refuse("record", "%w", err)
	}
	s.postcopy = off.PostCopy
	return s, nil
}

func sameRegions(got []memory.Region, want []memory.Span) error {
	if len(got) != len(want) {
		return fmt.Errorf("the machine built here has %d regions of RAM, the source's %d", len(got), len(want))
	}
	for i, g := range got {
		if g.GPA != want[i].GPA || g.Size != want[i].Size || uint64(len(g.Bytes)) != g.Size {
			return fmt.Errorf("region %d is %v+%#x here and %v+%#x at the source", i, g.GPA, g.Size, want[i].GPA, want[i].Size)
		}
	}
	return nil
}

// volumesOf returns the disks that a destination has for what comes.
func volumesOf(d Destination) []Volume {
	if v, ok := d.(VolumeDestination); ok {
		return v.Volumes()
	}
	return nil
}

func sameVolumes(got, want []Volume) error {
	if len(got) != len(want) {
		return fmt.Errorf("the machine built here takes %d disks, the source sends %d", len(got), len(want))
	}
	for i, g := range got {
		if g.Name != want[i].Name || g.Size != want[i].Size {
			return fmt.Errorf("disk %d is %q of %d bytes here and %q of %d at the source", i, g.Name, g.Size, printable(want[i].Name), want[i].Size)
		}
	}
	return nil
}

// resume takes a session up again over new connections.
func (r *Receiver) resume(_ context.Context, c *wire.Conn, h hello) error {
	s, err := r.find(c, h)
	if err != nil {
		return err
	}
	applied, err := s.restart(c)
	if err != nil {
		return err
	}
	if err := sendJSON(c, wire.Welcome, welcome{Version: h.version(), Applied: applied}); err != nil {
		s.lost(c)
		return err
	}
	return s.control(c)
}

// query answers a source that wants to know what became of a session.
func (r *Receiver) query(c *wire.Conn, h hello) error {
	if err := sendJSON(c, wire.Welcome, welcome{Version: h.version()}); err != nil {
		return err
	}
	t, _, err := c.Recv(r.o.Stall)
	if err != nil {
		return err
	}
	e := commit.GotQuery
	switch t {
	case wire.Query:
	case wire.Abort:
		e = commit.GotAbort
	default:
		return refuse("protocol", "%v is no question", t)
	}
	if s, err := r.find(c, h); err == nil && s.post(event{e, c}) {
		_, _, _ = c.Recv(max(r.o.Linger, r.o.Stall)) // until the source has heard the answer, and goes
		return nil
	}
	return r.fromRecord(c, h, e)
}

// fromRecord answers for a session that no goroutine keeps any more, by what is
// on disk; without a record the answer becomes one.
func (r *Receiver) fromRecord(c *wire.Conn, h hello, e commit.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.session != nil && r.session.offer.Session == h.Session {
		return refuse("session", "ask again")
	}
	j := r.records.Session(h.Session)
	rec, err := j.Load()
	state := commit.Gone
	switch {
	case errors.Is(err, commit.ErrNoRecord):
		// Every question about something unknown leaves a record: not for ever.
		if n, err := r.records.Sessions(); err != nil || n >= maxRecords {
			return refuse("record", "there are %d records of sessions here already (%v); remove old ones", n, err)
		}
		rec = commit.Record{Session: h.Session, Epoch: c.Epoch(), VM: h.VM, Peer: peerOf(c.Conn)}
	case err != nil:
		return refuse("record", "%w", err)
	case rec.Peer != peerOf(c.Conn):
		return refuse("session", "there is no such session here")
	case rec.Verdict == commit.OwnerRecord:
		state = commit.Running
	default:
		state = commit.Revoked
	}
	m := commit.NewMachine(commit.Destination, state, func(a commit.Action) error {
		switch a {
		case commit.WriteRevoked:
			rec.Verdict, rec.At = commit.RevokedRecord, time.Now().UTC()
			return commit.Store(j, rec)
		case commit.SendRunning:
			return c.Send(wire.Running, nil)
		case commit.SendRevoked:
			return c.Send(wire.Revoked, nil)
		default: // there is no guest and there are no locks
			return nil
		}
	})
	return m.Fire(e)
}
