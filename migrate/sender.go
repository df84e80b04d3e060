package migrate

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

// sender is the source's side of one session.
type sender struct {
	*owner
	ram      *ram
	streams  []*stream
	limiter  limiter
	link     *link
	round    uint32
	report   *Report
	throttle int
	last     bool          // the guest was slowed down because the time was up
	state    uint64        // expected size of the state, in bytes
	handover time.Duration // expected time of a blackout besides sending
	best     float64       // measured bandwidth, bytes per second; 0 before the first round
	later    bool          // the pages that are left follow after the hand-over
}

// Send moves the machine to the destination that dial reaches. When it returns
// nil the machine runs there: the caller closes src without resuming it. On an
// error the machine is in the state it was in before, running, unless the error
// wraps ErrInDoubt: then it is paused and stays so until Settle or Resolve.
// Ending ctx ends the migration as long as that is possible. The report is
// never nil.
func Send(ctx context.Context, src Source, dial Dial, j commit.Journal, o SendOptions) (*Report, error) {
	o = o.withDefaults()
	begin := time.Now()
	report := &Report{Streams: o.Streams, Outcome: string(commit.Kept)}
	s, err := newSender(src, dial, j, o, report)
	if err == nil {
		err = s.run(ctx)
		report.Outcome = string(s.machine.State())
	}
	report.Total = time.Since(begin)
	report.bounds()
	if err != nil {
		report.Reason = err.Error()
		return report, fmt.Errorf("migrate %s: %w", o.VM, err)
	}
	return report, nil
}

func newSender(src Source, dial Dial, j commit.Journal, o SendOptions, report *Report) (*sender, error) {
	if o.Streams < 1 || o.Streams > maxStreams {
		return nil, fmt.Errorf("%d streams, want 1 to %d", o.Streams, maxStreams)
	}
	if len(o.Description) > maxDescription || len(o.Plan) > maxDescription-4096 {
		return nil, fmt.Errorf("description of %d and plan of %d bytes, at most %d each are sent", len(o.Description), len(o.Plan), maxDescription-4096)
	}
	last, err := j.Load()
	switch {
	case errors.Is(err, commit.ErrNoRecord):
	case err != nil:
		return nil, err
	case last.Verdict == commit.IntentRecord:
		return nil, fmt.Errorf("%w: the record of session %s was never settled", ErrInDoubt, last.Session)
	case last.Verdict == commit.HandedRecord:
		return nil, fmt.Errorf("%w: the machine went to %s", ErrRefused, last.Peer)
	}
	record := commit.Record{Session: newSessionID(), Epoch: last.Epoch + 1, VM: o.VM, Peer: o.Peer}
	s := &sender{owner: newOwner(src, dial, j, record, commit.Copying, o), report: report, limiter: limiter{rate: o.Rate}}
	for _, r := range src.Regions() {
		s.dialer.offer.Regions = append(s.dialer.offer.Regions, regionInfo{uint64(r.GPA), r.Size})
		report.RAM += r.Size
	}
	if v, ok := src.(VolumeSource); ok {
		for _, d := range v.Volumes() {
			s.dialer.offer.Volumes = append(s.dialer.offer.Volumes, volumeInfo{d.Name, d.Size})
			report.Disks += d.Size
		}
	}
	s.dialer.hello.Token = o.Token
	s.dialer.offer.PostCopy = o.OnTimeout == Later
	s.dialer.offer.Streams, s.dialer.offer.Description, s.dialer.offer.Plan = o.Streams, o.Description, o.Plan
	report.Session = record.Session
	for i := range o.Streams {
		s.streams = append(s.streams, newStream(i, o.Compress))
	}
	return s, nil
}

func newSessionID() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

// run goes through the whole session.
func (s *sender) run(ctx context.Context) error {
	defer func() {
		if s.link != nil {
			s.link.closeAll()
		}
		if s.intent != nil {
			s.intent.Discard()
		}
	}()
	err := s.copyAll(ctx)
	if err == nil {
		err = s.switchOver(ctx)
	}
	if s.pages != nil {
		err = errors.Join(err, s.serveOut())
	}
	if err != nil && !s.committed() {
		// The guest's life here is not tied to the context that ended.
		s.ctx = context.WithoutCancel(ctx)
		if ferr := s.machine.Fire(commit.Fail); ferr != nil {
			err = errors.Join(err, ferr)
		}
	}
	if s.o.Done && s.machine.State() == commit.Handed && s.owner.link != nil {
		s.owner.tell(wire.Done)
	}
	s.owner.link = nil
	return errors.Join(err, s.calm())
}

// calm undoes what copying did to the guest, if it runs here.
func (s *sender) calm() error {
	if state := s.machine.State(); state == commit.Handed || state == commit.Serving {
		return nil
	}
	var err error
	if t, ok := s.src.(Throttler); ok && s.throttle > 0 {
		err = t.Throttle(0)
	}
	return errors.Join(err, s.src.StopDirtyLog())
}

// copyAll sends the memory, round by round, until the rest fits the blackout
// aimed at. On success the link is up.
func (s *sender) copyAll(ctx context.Context) (err error) {
	if s.link, _, err = s.dialer.open(ctx, false); err != nil {
		return err
	}
	s.owner.link = s.link
	for _, st := range s.streams {
		st.version = s.dialer.hello.Max
	}
	s.report.RTT = s.link.rtt
	begin := time.Now()
	if err := s.stage(); err != nil {
		return err
	}
	s.foresee(s.link.told, time.Since(begin))
	if err := s.src.StartDirtyLog(); err != nil {
		return fmt.Errorf("start the dirty log: %w", err)
	}
	if s.ram, err = newRAM(s.src); err != nil {
		return err
	}
	s.report.Holes = s.ram.holes
	if s.later = s.o.AtOnce && len(s.dialer.offer.Volumes) == 0; s.later {
		return nil
	}
	rounds, cancel := s.timed(ctx)
	defer func() { cancel() }()
	limit := s.o.MaxRounds
	var before uint64
	slow := 0 // rounds in a row that hardly shrank the rest
	for n := 0; ; n++ {
		r, err := s.sendRound(rounds, ctx)
		if err != nil {
			if err := s.again(ctx, rounds, err); err != nil {
				return err
			}
			if rounds.Err() == nil {
				continue
			}
			if !s.last { // forced
				return nil
			}
			cancel()
			rounds, cancel = s.timed(ctx)
			continue
		}
		todo, err := s.ram.fetch()
		if err != nil {
			return fmt.Errorf("fetch the dirty log: %w", err)
		}
		r.Dirty, r.Throttle = todo, s.throttle
		r.Expected = s.expected(todo)
		s.report.Rounds = append(s.report.Rounds, r)
		s.tell()
		s.o.Log.Info("round", "n", n, "pages", r.Pages, "bytes", r.Bytes, "dirty", todo, "expected", r.Expected)
		if r.Expected <= s.o.Downtime*9/10 { // a tenth is for what nobody foresees: vCPUs that are slow to come out, a link that hesitates
			return nil
		}
		if s.later = s.o.AtOnce; s.later {
			return nil
		}
		if slow++; n == 0 || todo < before-before/10 {
			slow = 0
		}
		before = todo
		if slow >= 2 {
			if s.later = s.o.OnTimeout == Later; s.later {
				return nil
			}
			s.slowDown()
		}
		if n+1 >= limit {
			if s.lastChance() {
				limit += s.o.MaxRounds
				continue
			}
			return s.giveUp(todo, r.Expected)
		}
	}
}

// timed bounds the time of copying.
func (s *sender) timed(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.o.Timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, s.o.Timeout, ErrNotConverging)
}

// tell tells of the report so far.
func (s *sender) tell() {
	r := *s.report
	r.Rounds = slices.Clone(r.Rounds)
	s.o.Progress(r)
}

// lastChance slows the guest to a standstill nearly, once, if that is what to do
// when copying comes to no end.
func (s *sender) lastChance() bool {
	t, ok := s.src.(Throttler)
	if s.o.OnTimeout != Slow || s.last || !ok {
		return false
	}
	s.last, s.throttle = true, maxThrottle
	if err := t.Throttle(s.throttle); err != nil {
		s.o.Log.Warn("throttle", "err", err)
	}
	return true
}

// giveUp is what happens when copying comes to no end.
func (s *sender) giveUp(todo uint64, expected time.Duration) error {
	if s.unsent() {
		return nil
	}
	return fmt.Errorf("%w: after %d rounds %d pages are left, for which the guest would stand still %v, not %v",
		ErrNotConverging, len(s.report.Rounds), todo, expected.Round(time.Millisecond), s.o.Downtime)
}

// unsent reports whether to switch over whatever is left, and notes whether that
// follows later.
func (s *sender) unsent() bool {
	s.later = s.o.OnTimeout == Later
	return s.later || s.o.OnTimeout == Force
}

// again decides what a failed round means: nil is that copying goes on over a
// new link, or that the time is up and switching over is forced.
func (s *sender) again(ctx, rounds context.Context, err error) error {
	if rounds.Err() != nil && ctx.Err() == nil {
		if s.unsent() || s.lastChance() {
			return nil
		}
		return fmt.Errorf("%w within %v", ErrNotConverging, s.o.Timeout)
	}
	if ctx.Err() != nil || !isLink(err) {
		return err
	}
	return s.reconnect(ctx, err)
}

// reconnect opens the link again and marks what did not arrive as to be sent.
func (s *sender) reconnect(ctx context.Context, cause error) error {
	s.link.closeAll()
	s.owner.link = nil
	wait := s.o.Backoff
	for range s.o.Reconnects {
		s.o.Log.Warn("link broke", "err", cause)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, maxBackoff)
		l, applied, err := s.dialer.open(ctx, true)
		if err != nil {
			if cause = err; !isLink(err) {
				return err
			}
			continue
		}
		s.link, s.owner.link = l, l
		s.report.Reconnects++
		for i, st := range s.streams {
			if applied[i] > st.frames {
				return fmt.Errorf("%w: the destination has %d frames of stream %d, %d were sent", ErrProtocol, applied[i], i, st.frames)
			}
			s.report.Again += st.lost(s.ram, applied[i])
		}
		return nil
	}
	return fmt.Errorf("gave up after %d attempts: %w", s.o.Reconnects, cause)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// maxThrottle is the most that is taken of the guest's time, in percent.
const maxThrottle = 99

// slowDown takes more of the guest's time away, if that is allowed.
func (s *sender) slowDown() {
	t, ok := s.src.(Throttler)
	if !ok || !s.o.Throttle || s.throttle >= maxThrottle {
		return
	}
	s.throttle = min(s.throttle+20, maxThrottle)
	if err := t.Throttle(s.throttle); err != nil {
		s.o.Log.Warn("throttle", "err", err)
	}
}

// stateGuess stands for the size of the state when the destination cannot say.
const stateGuess = 256 << 10

// foresee keeps what is known of the blackout besides the pages: what the
// destination has told, and how long it took to write a record here. A
// destination that is slow by itself does not keep the guest from ever moving:
// at least a quarter of the blackout is left to the pages.
func (s *sender) foresee(told prepared, staged time.Duration) {
	s.state = 2 * told.state // a state that was used has more in it
	if s.state == 0 {
		s.state = stateGuess
	}
	s.handover = min(told.handover+staged, s.o.Downtime*3/4)
}

// expected estimates the blackout if todo pages were the rest.
func (s *sender) expected(todo uint64) time.Duration {
	fixed := 2*s.report.RTT + s.handover
	if s.best == 0 {
		return fixed
	}
	sec := float64(todo*pageSize+s.state) / s.best
	return time.Duration(sec*float64(time.Second)) + fixed
}

// sendRound sends what is to be sent and waits until it has been applied.
func (s *sender) sendRound(ctx, hard context.Context) (r RoundReport, err error) {
	begin := time.Now()
	if r, err = s.sendPages(ctx, hard); err != nil {
		return r, err
	}
	if err := s.endRound(); err != nil {
		return r, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, 3*s.o.Stall, fmt.Errorf("%w: no answer for %v", errLink, 3*s.o.Stall))
	defer cancel()
	if err := s.applied(wait); err != nil {
		return r, err
	}
	r.Duration = time.Since(begin)
	s.measure(&r)
	return r, nil
}

// measure computes the bandwidth of a round. Small rounds measure the round
// trip and not the bandwidth: they count only when there is nothing better.
func (s *sender) measure(r *RoundReport) {
	s.report.RTT = min(s.report.RTT, r.Duration)
	r.Bandwidth = float64(r.Unpacked) / max(r.Duration-s.report.RTT, r.Duration/2, time.Nanosecond).Seconds()
	if r.Unpacked >= 1<<20 || s.best == 0 && r.Unpacked > 0 {
		s.best = r.Bandwidth
	}
}

// sendPages has every stream send its share. The first failure ends them all,
// and so does the end of ctx; that of hard makes the link useless besides.
func (s *sender) sendPages(ctx, hard context.Context) (r RoundReport, err error) {
	stop := context.AfterFunc(hard, s.link.interrupt)
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	for i, st := range s.streams {
		st.stats = RoundReport{}
		g.Go(func() error {
			err := st.share(gctx, s.ram, len(s.streams), s.link.data[i], &s.limiter)
			if err != nil && gctx.Err() == nil {
				err = fmt.Errorf("%w: stream %d: %w", errLink, i, err)
				s.link.interrupt()
			}
			return err
		})
	}
	if err = g.Wait(); err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	for _, st := range s.streams {
		r.add(st.stats)
	}
	return r, err
}

// endRound sends ROUND down every stream.
func (s *sender) endRound() error {
	s.round++
	for _, c := range s.link.data {
		if err := c.Send(wire.Round, binary.LittleEndian.AppendUint32(nil, s.round)); err != nil {
			return fmt.Errorf("%w: %w", errLink, err)
		}
	}
	return nil
}

// applied waits for the APPLIED of the round and forgets its frames.
func (s *sender) applied(ctx context.Context) error {
	for {
		m, err := s.link.wait(ctx)
		if err != nil {
			return err
		}
		if m.typ != wire.Applied {
			return fmt.Errorf("%w: %v while memory is copied", ErrProtocol, m.typ)
		}
		c := wire.NewCursor(m.payload)
		round := c.Uint32("round")
		for _, st := range s.streams {
			if n := c.Uint64("frames"); c.Err() == nil && round == s.round && n != st.frames {
				return fmt.Errorf("%w: %d frames of stream %d were applied, %d sent", ErrProtocol, n, st.index, st.frames)
			}
		}
		if c.Done(); c.Err() != nil {
			return fmt.Errorf("%w: APPLIED: %w", ErrProtocol, c.Err())
		}
		if round == s.round {
			for _, st := range s.streams {
				st.flights = st.flights[:0]
			}
			return nil
		}
	}
}

// bounds computes what no migration over the measured link could beat.
func (r *Report) bounds() {
	var best float64
	for _, x := range r.Rounds {
		best = max(best, x.Bandwidth)
	}
	if best == 0 || len(r.Rounds) == 0 {
		return
	}
	sec := func(bytes uint64) time.Duration {
		return time.Duration(float64(bytes) / best * float64(time.Second))
	}
	r.BoundTotal = sec(r.Rounds[0].Unpacked + r.StateBytes)
	if r.Blackout.Total > 0 {
		r.BoundBlackout = sec(r.Final.Unpacked + r.StateBytes)
	}
}
