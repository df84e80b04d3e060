package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
)

// errCancelled ends a migration that the operator has called off.
var errCancelled = errors.New("cancelled")

// sending is the latest attempt to send the VM away.
type sending struct {
	to     string
	began  time.Time
	cancel context.CancelCauseFunc
	over   chan struct{} // closed when report and err are final

	mu     sync.Mutex // guards what follows
	report migrate.Report
	err    error
}

// begin makes the attempt the one that people ask about.
func (v *VM) begin(ctx context.Context, to string) (context.Context, *sending) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &sending{to: to, began: time.Now(), cancel: cancel, over: make(chan struct{})}
	v.sent.Store(s)
	return ctx, s
}

func (s *sending) progress(r migrate.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report = r
}

func (s *sending) end(r *migrate.Report, err error) {
	s.mu.Lock()
	s.report, s.err = *r, err
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
	s.cancel(errCancelled)
	select {
	case <-s.over:
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
