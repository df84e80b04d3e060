package migrate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

// stateFrame is how much state goes into one STATE frame, in bytes.
const stateFrame = 1 << 20

// switchOver pauses the guest, sends the rest and hands over.
func (s *sender) switchOver(ctx context.Context) error {
	limit := s.o.Blackout
	if s.o.OnTimeout == Force {
		limit = max(limit, time.Minute)
	}
	if s.later {
		limit = max(limit, 10*time.Second) // a process is started at the other end
	}
	begin := time.Now()
	cause := fmt.Errorf("the guest stood still for %v: taken back", limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, cause)
	defer cancel()
	s.ctx = ctx
	b := &s.report.Blackout
	defer func() { b.Total = time.Since(begin) }()
	mark := begin
	lap := func(d *time.Duration) {
		now := time.Now()
		*d, mark = now.Sub(mark), now
	}

	if err := s.machine.Fire(commit.Switch); err != nil {
		return err
	}
	lap(&b.Pause)
	state, err := s.sendRest(ctx)
	if err != nil {
		return err
	}
	lap(&b.Pages)
	if err := s.sendState(ctx, state); err != nil {
		return err
	}
	lap(&b.State)
	if err := s.ready(ctx); err != nil {
		return err
	}
	lap(&b.Load)
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	// From the intent record on only settle knows the way, whatever fails here.
	s.ctx = context.WithoutCancel(ctx)
	err = s.machine.Fire(commit.GotReady)
	err = errors.Join(err, s.settle(ctx))
	if state := s.machine.State(); state == commit.Handed || state == commit.Serving {
		if err != nil {
			s.o.Log.Error("handed over all the same", "err", err)
		}
		err = nil
	}
	lap(&b.Commit)
	return err
}

// sendRest sends the last pages while the state is saved, and then the pages
// that saving made dirty. It returns the encoded state.
func (s *sender) sendRest(ctx context.Context) (state []byte, err error) {
	s.ram.held = s.later
	if _, err := s.ram.fetch(); err != nil {
		return nil, fmt.Errorf("fetch the dirty log: %w", err)
	}
	type sent struct {
		r   RoundReport
		err error
	}
	first := make(chan sent, 1)
	go func() {
		r, err := s.sendPages(ctx, ctx)
		first <- sent{r, err}
	}()
	sections, serr := s.src.SaveState()
	if serr == nil {
		state, serr = wire.AppendSections(nil, sections)
	}
	done := <-first
	s.report.Final = done.r
	if err := errors.Join(done.err, serr); err != nil {
		return nil, err
	}
	todo, err := s.ram.fetch()
	if err != nil {
		return nil, fmt.Errorf("fetch the dirty log: %w", err)
	}
	if s.later {
		s.leave()
	}
	if todo > 0 {
		r, err := s.sendPages(ctx, ctx)
		s.report.Final.add(r)
		if err != nil {
			return nil, err
		}
	}
	s.report.StateBytes = uint64(len(state))
	return state, s.endRound()
}

// sendState sends the sections and FINAL, once the locks are dropped.
func (s *sender) sendState(ctx context.Context, state []byte) error {
	c := s.link.control
	stop := context.AfterFunc(ctx, func() { _ = c.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	for rest := state; len(rest) > 0; {
		n := min(len(rest), stateFrame)
		if err := c.Send(wire.State, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if err := s.join(); err != nil {
		return fmt.Errorf("make the disks durable and drop their locks: %w", err)
	}
	if s.pages != nil {
		if err := s.pages.announce(c); err != nil {
			return err
		}
	}
	le := binary.LittleEndian
	b := le.AppendUint32(nil, s.round)
	b = le.AppendUint64(b, uint64(len(state)))
	b = le.AppendUint32(b, wire.CRC(0, state))
	return c.Send(wire.Final, b)
}

// ready waits for READY.
func (s *sender) ready(ctx context.Context) error {
	for {
		m, err := s.link.wait(ctx)
		if err != nil {
			return err
		}
		switch m.typ {
		case wire.Applied: // of the last round: READY follows
		case wire.Ready:
			return nil
		case wire.Listen:
			if s.pages == nil {
				return fmt.Errorf("%w: LISTEN, and no page is left", ErrProtocol)
			}
			s.pages.start()
		default:
			return fmt.Errorf("%w: %v instead of READY", ErrProtocol, m.typ)
		}
	}
}
