package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/migrate"
)

// gapWait bounds how long a source waits for the guest's own word on its gap.
const gapWait = 5 * time.Second

// gap is for how long a guest that came did not run, by its own clock.
type gap struct {
	session string
	known   chan struct{} // closed when longest is final
	longest time.Duration // 0: the guest has not measured it
}

// end makes longest final.
func (g *gap) end(longest time.Duration) {
	g.longest = longest
	close(g.known)
}

// gapAnswer is a destination's answer to a question about a gap.
type gapAnswer struct {
	LongestNs int64 `json:"longestNs"`
}

// beat has the guest's agent begin to measure its gap, or end that. Agents that
// cannot are no reason to stop.
func (v *VM) beat(ctx context.Context, s *agent.Session, on bool) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, gapWait)
	defer cancel()
	d, err := s.Beat(ctx, on)
	if err != nil {
		v.log.Info("the guest does not measure for how long it stands still", "err", err)
	}
	return d
}

// tellGap answers a source that has sent a VM here, for which the session's name
// is the proof.
func (v *VM) tellGap(ctx context.Context, session string) (json.RawMessage, error) {
	g := v.gap.Load()
	if g == nil || g.session != session {
		return nil, errors.New("no VM came by that session")
	}
	select {
	case <-g.known:
		return json.Marshal(gapAnswer{g.longest.Nanoseconds()})
	case <-time.After(gapWait):
		return nil, errors.New("the guest's agent has not answered yet")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// askGap asks the destination for how long the guest has stood still by its own
// clock. After a post-copy the process that had the connections there may be the one
// that hears it first, and refuse; so it is asked again.
func askGap(ctx context.Context, dial migrate.Dial, session, vm string) (d time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*gapWait)
	defer cancel()
	for {
		if d, err = askGapOnce(ctx, dial, session, vm); err == nil {
			return d, nil
		}
		select {
		case <-time.After(gapAgain):
		case <-ctx.Done():
			return 0, err
		}
	}
}

// gapAgain is the time between two such questions.
const gapAgain = 100 * time.Millisecond

func askGapOnce(ctx context.Context, dial migrate.Dial, session, vm string) (time.Duration, error) {
	q, err := json.Marshal(question{Gap: session, CPUs: 1})
	if err != nil {
		return 0, err
	}
	b, err := migrate.Inquire(ctx, dial, q, migrate.SendOptions{VM: vm, Stall: 2 * gapWait})
	if err != nil {
		return 0, err
	}
	var a gapAnswer
	if err := json.Unmarshal(b, &a); err != nil {
		return 0, fmt.Errorf("what the destination says of the guest's gap: %w", err)
	}
	return max(time.Duration(a.LongestNs), 0), nil
}
