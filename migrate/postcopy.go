package migrate

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

// PostCopy says what became of the pages that the destination lacked when it took
// the guest.
type PostCopy struct {
	State      string        `json:"state"` // switching, serving, broken, drained, lost, given-up
	Why        string        `json:"why,omitempty"`
	Missing    uint64        `json:"missing_pages"` // when the guest was handed over
	Left       uint64        `json:"left_pages"`    // not sent, as far as is known here
	Faulted    uint64        `json:"faulted_pages"` // sent because somebody waited
	Pushed     uint64        `json:"pushed_pages"`
	Zero       uint64        `json:"zero_pages"` // of both, sent without bytes
	Bytes      uint64        `json:"bytes"`
	Reconnects int           `json:"reconnects"`
	Duration   time.Duration `json:"duration_ns"` // from the hand-over until all were there
	// Arrival is what the destination says of its side.
	Arrival Arrival `json:"arrival"`
}

// Arrival is the destination's account of pages that came later. It comes from the
// other side: plain numbers, to be believed as such.
type Arrival struct {
	Faults uint64        `json:"faults"` // that had to wait for a page
	Local  uint64        `json:"local"`  // that found a page of zeroes never sent
	P50    time.Duration `json:"p50_ns"` // of the waits
	P99    time.Duration `json:"p99_ns"`
	Max    time.Duration `json:"max_ns"`
}

// maxSamples bounds the waits whose quantiles are computed; of the longest is kept
// count for ever.
const maxSamples = 1 << 14

// waits collects how long faults waited.
type waits struct {
	sample []time.Duration
	max    time.Duration
	n      uint64
}

func (w *waits) add(d time.Duration) {
	w.n++
	w.max = max(w.max, d)
	if len(w.sample) < maxSamples {
		w.sample = append(w.sample, d)
	} else {
		w.sample[w.n%maxSamples] = d
	}
}

func (w *waits) arrival(local uint64) Arrival {
	a := Arrival{Faults: w.n, Local: local, Max: w.max}
	if n := len(w.sample); n > 0 {
		s := slices.Sorted(slices.Values(w.sample))
		a.P50, a.P99 = s[n/2], s[min(n-1, n*99/100)]
	}
	return a
}

func (p *PostCopy) write(w io.Writer) error {
	us := time.Microsecond
	_, err := fmt.Fprintf(w, `post-copy %s %s: %d pages were missing at the hand-over, %d pushed, %d faulted, %d of them zero, %d left; %d bytes, all there after %v, %d reconnects
faults %d, waited p50 %v, p99 %v, max %v; %d more found zeroes
`, p.State, p.Why, p.Missing, p.Pushed, p.Faulted, p.Zero, p.Left, p.Bytes, p.Duration.Round(us), p.Reconnects,
		p.Arrival.Faults, p.Arrival.P50.Round(us), p.Arrival.P99.Round(us), p.Arrival.Max.Round(us), p.Arrival.Local)
	return err
}

// leave makes the RAM that is left what follows later. When nothing is left,
// nothing does.
func (s *sender) leave() {
	var missing [][]uint64
	left := uint64(0)
	for i, a := range s.ram.areas {
		if a.ram != nil {
			missing = append(missing, slices.Clone(s.ram.todo[i]))
			left += count(s.ram.todo[i])
		}
	}
	if left == 0 {
		return
	}
	s.pages = newPageServer(s.dialer, s.ram.areas[:len(missing)], missing, &s.limiter)
}

// runs is what RUNNING means: a destination that lacks pages needs the guest's
// memory here.
func (w *owner) runs() commit.Event {
	if w.pages != nil {
		return commit.RunsLacking
	}
	return commit.GotRunning
}

// pause waits before the destination is asked again, and returns what to do then:
// an operator's word, or Retry; nothing when ctx ended.
func (w *owner) pause(ctx context.Context, wait time.Duration) commit.Event {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return commit.Retry
	case e := <-w.o.Operator:
		if e == commit.KeepDest && w.pages != nil { // that it runs is not that it has all
			e = commit.RunsLacking
		}
		return e
	case <-w.o.Ended:
		return ""
	case <-ctx.Done():
		return ""
	}
}

// serveOut serves the destination until it has everything. It returns nil, too,
// when the guest is lost there: the report says so.
func (s *sender) serveOut() error {
	defer s.pages.stop()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	begin := time.Now()
	note := func() {
		p := s.pages.report()
		p.Duration = time.Since(begin)
		s.report.PostCopy = &p
		s.tell()
	}
	for s.machine.State() == commit.Serving {
		note()
		var e commit.Event
		select {
		case e = <-s.pages.over:
		case e = <-s.o.Operator:
			if e == commit.Retry {
				s.pages.retry()
			}
		case <-s.o.Ended:
			s.pages.fail("the source has ended")
			return fmt.Errorf("%w: the source has ended while its destination still lacked %d pages", ErrLost, s.pages.report().Left)
		case <-tick.C:
		}
		if err := s.machine.Fire(e); err != nil {
			return err
		}
		switch e {
		case commit.GotLost:
			s.pages.end("lost")
		case commit.GotDrained:
			s.pages.end("drained")
		case commit.KeepDest:
			s.pages.fail("the operator at the source has given it up")
			s.pages.end("given-up")
		default:
		}
	}
	note()
	return nil
}

// announce sends which pages are missing.
func (p *pageServer) announce(c *wire.Conn) error {
	return wire.AppendMissing(p.missing, func(b []byte) error { return c.Send(wire.Missing, b) })
}
