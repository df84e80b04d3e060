package migrate

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

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
		case wire.Missing:
			err = s.addMissing(p)
		case wire.Final:
			err = s.setFinal(p)
		case wire.Go:
			s.post(event{commit.GotGo, nil})
		case wire.Abort:
			s.post(event{commit.GotAbort, nil})
		case wire.Done:
			if s.r.o.Done != nil {
				s.r.o.Done()
			}
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
	s.ctl, s.state, s.missing = c, nil, nil
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
	if err := s.pull(); err != nil {
		return fmt.Errorf("pages that follow later: %w", err)
	}
	return s.dest.LoadState(sections)
}
