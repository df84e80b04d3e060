package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/moves"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/plan"
)

// errCancelled ends a migration that the operator has called off.
var errCancelled = errors.New("cancelled")

// sending is the latest attempt to send the VM away.
type sending struct {
	to     string
	began  time.Time
	cancel context.CancelCauseFunc
	over   chan struct{} // closed when report and err are final
	// The guest runs at its destination, which still lacks memory that is here:
	// serving is closed then, and word takes what an operator says.
	serving chan struct{}
	word    chan commit.Event
	left    func() // called after that; nil: nobody wants to know

	mu     sync.Mutex // guards what follows
	report migrate.Report
	err    error
	keep   func(report migrate.Report, err error, over bool) // writes it down; nil: nowhere
}

// account has the attempt written down from now on, in v's directory.
func (s *sending) account(v *VM, p plan.Plan) {
	a := moves.Attempt{To: s.to, Began: s.began.UTC(), Plan: p}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep = func(r migrate.Report, err error, over bool) {
		a.Report = r
		if over {
			a.Ended = time.Now().UTC()
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := a.Keep(v.dir); err != nil {
			v.log.Warn("the account of the migration is not written", "err", err)
		}
	}
}

// begin makes the attempt the one that people ask about.
func (v *VM) begin(ctx context.Context, to string, left func()) (context.Context, *sending) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &sending{to: to, began: time.Now(), cancel: cancel, over: make(chan struct{}), serving: make(chan struct{}), word: make(chan commit.Event), left: left}
	v.sent.Store(s)
	return ctx, s
}

func (s *sending) progress(r migrate.Report) {
	s.mu.Lock()
	gone := r.PostCopy != nil && s.report.PostCopy == nil
	news := gone || len(r.Rounds) != len(s.report.Rounds) || r.PostCopy != nil && r.PostCopy.State != s.report.PostCopy.State
	s.report = r
	if news && s.keep != nil {
		s.keep(r, nil, false)
	}
	s.mu.Unlock()
	if gone {
		close(s.serving)
		if s.left != nil {
			s.left()
		}
	}
}

// serves tells whether the guest runs elsewhere on memory that is partly here.
func (s *sending) serves() bool {
	select {
	case <-s.over:
		return false
	default:
	}
	select {
	case <-s.serving:
		return true
	default:
		return false
	}
}

// Away implements workload.Migrator.
func (v *VM) Away() error {
	if s := v.sent.Load(); s != nil && s.serves() {
		return fmt.Errorf("%w here: it runs at %s, on memory that is partly still here; `hvctl migrate status` shows how much. Ask it there; kill and rm -f end it there, too", workload.ErrNotRunning, s.to)
	}
	return nil
}

// say gives an operator's word to whoever serves the destination.
func (s *sending) say(ctx context.Context, e commit.Event) error {
	select {
	case s.word <- e:
		return nil
	case <-s.over:
		return errors.New("it is over")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// finish ends an attempt whose VM is about to go, and waits until nobody reads its
// memory any more.
func (s *sending) finish() {
	s.cancel(errClosed)
	select {
	case <-s.over:
	case <-time.After(finishTimeout):
	}
}

// finishTimeout is how long that may take: a guest that runs elsewhere by now may be asked
// for its gap, and whoever asked for the migration waits for the report.
const finishTimeout = 2*gapWait + 2*time.Second

// RecoverMigration implements workload.Migrator.
func (v *VM) RecoverMigration(ctx context.Context) error {
	s := v.sent.Load()
	switch {
	case s == nil && v.filling():
		return errors.New("the VM waits for memory from where it was before: it is there that `hvctl migrate recover` helps")
	case s == nil:
		return errors.New("there is no migration to recover")
	case !s.serves():
		return errors.New("there is nothing to recover: no destination waits for memory from here; while memory is copied, broken connections are dialled again by themselves")
	}
	if err := s.say(ctx, commit.Retry); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.over:
		case <-ctx.Done():
		}
		s.mu.Lock()
		p := *s.report.PostCopy
		s.mu.Unlock()
		switch {
		case p.State == "serving", p.State == "drained":
			return nil
		case !s.serves():
			return fmt.Errorf("the guest is lost at %s: %s", s.to, p.Why)
		case ctx.Err() != nil:
			return fmt.Errorf("%s is not reached (%s); it is tried on", s.to, p.Why)
		}
	}
}

// recoverTimeout is how long RecoverMigration waits for the destination.
const recoverTimeout = 15 * time.Second

func (s *sending) end(r *migrate.Report, err error) {
	s.mu.Lock()
	s.report, s.err = *r, err
	if s.keep != nil {
		s.keep(*r, err, true)
	}
	s.mu.Unlock()
	s.cancel(nil)
	close(s.over)
}

// Migration implements workload.Migrator.
func (v *VM) Migration() workload.MigrationStatus {
	s := v.sent.Load()
	if s == nil {
		return workload.MigrationStatus{State: workload.MigrationNone}
	}
	m := workload.MigrationStatus{State: workload.MigrationOver, To: s.to, BeganNs: s.began.UnixNano()}
	select {
	case <-s.over:
		if v.doubt.Load() != nil {
			m.State = workload.MigrationInDoubt
		}
	default:
		m.State = workload.MigrationGoing
		if s.serves() {
			m.State = workload.MigrationServing
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		m.Error = s.err.Error()
	}
	if b, err := json.Marshal(s.report); err == nil { // plain data: it has no other way
		m.Report = b
	}
	return m
}

// CancelMigration implements workload.Migrator.
func (v *VM) CancelMigration(ctx context.Context) error {
	s := v.sent.Load()
	if s == nil {
		return errors.New("there is no migration to cancel")
	}
	select {
	case <-s.over:
		return errors.New("there is no migration to cancel: the latest one is over")
	default:
	}
	late := fmt.Errorf("too late: the VM runs at %s, and needs the memory that is still here; it goes when all has arrived", s.to)
	if s.serves() {
		return late
	}
	s.cancel(errCancelled)
	select {
	case <-s.over:
	case <-s.serving:
		return late
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err == nil:
		return fmt.Errorf("too late: the VM runs at %s", s.to)
	case errors.Is(s.err, migrate.ErrInDoubt):
		return fmt.Errorf("too late: it is past the point of no return: %w", s.err)
	}
	return nil
}
