package microvm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
)

// errDoubt refuses everything that could let a guest run that may be running
// elsewhere.
var errDoubt = fmt.Errorf("%w: its migration is in doubt: it stays paused until the destination answers, or `hvctl migrate resolve` says who keeps it", workload.ErrNotRunning)

// askAgain is the time between two questions to a destination that does not
// answer.
const askAgain = 5 * time.Second

// handover is a guest that was sent. While its outcome is not known, VM.doubt
// points to it, and only it lets the guest run.
type handover struct {
	v       *VM
	g       *guest
	to      string
	dial    migrate.Dial
	journal commit.Journal
	options migrate.SendOptions

	stop context.CancelFunc // ends asking
	mu   sync.Mutex         // one decision at a time
}

// left is the end of the instance here: the guest runs elsewhere.
func (h *handover) left() {
	h.v.moved.Store(&h.to)
	h.g.stop(errMoved)
}

// ask asks the destination until it answers, the operator decides or the VM is
// killed.
func (h *handover) ask() {
	ctx, stop := context.WithCancel(h.g.ctx)
	h.stop = stop
	h.v.doubt.Store(h)
	h.v.log.Error("who runs the guest is in doubt; it stays paused here", "destination", h.to)
	go func() {
		for {
			if h.decide(func() error { return migrate.Settle(ctx, outgoing{h.g.machine}, h.dial, h.journal, h.options) }) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(askAgain):
			}
		}
	}()
}

// decide runs one attempt to learn or to say who keeps the guest, and reports
// whether that is known.
func (h *handover) decide(try func() error) (known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.v.doubt.Load() != h {
		return true
	}
	err := try()
	switch r, rerr := h.journal.Load(); {
	case rerr != nil || r.Verdict == commit.IntentRecord:
		h.v.log.Warn("still in doubt", "err", errors.Join(err, rerr))
		return false
	case r.Verdict == commit.HandedRecord:
		h.v.log.Info("the guest runs at its destination", "destination", h.to)
		h.left()
	default:
		h.v.log.Info("the guest goes on here", "why", err)
	}
	h.v.doubt.Store(nil)
	return true
}

// Resolve implements workload.Migrator.
func (v *VM) Resolve(ctx context.Context, keep workload.Keep) error {
	if s := v.sent.Load(); s != nil && s.serves() {
		if keep == workload.KeepSource {
			return fmt.Errorf("the VM has run on at %s: what is here is memory that it lacks there, not the VM", s.to)
		}
		return s.say(ctx, commit.KeepDest)
	}
	h := v.doubt.Load()
	if h == nil {
		return errors.New("nothing is in doubt here")
	}
	h.stop() // a question under way may take half a minute
	var err error
	known := h.decide(func() error {
		err = migrate.Resolve(ctx, outgoing{h.g.machine}, h.journal, keep == workload.KeepSource, h.options)
		return err
	})
	if !known {
		h.ask()
	}
	return err
}
