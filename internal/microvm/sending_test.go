package microvm

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/moves"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/plan"
)

// Once a guest runs elsewhere on memory that is partly here, it cannot be called
// back; what can be said is handed to who serves it.
func TestAServedGuestCannotBeCalledBack(t *testing.T) {
	v := &VM{}
	if err := v.RecoverMigration(t.Context()); err == nil {
		t.Error("recovered what never was")
	}
	left := 0
	ctx, s := v.begin(t.Context(), "host2", func() { left++ })
	s.progress(migrate.Report{})
	if err := v.Away(); err != nil || left != 0 {
		t.Errorf("away before the hand-over: %v, told %d times", err, left)
	}
	if m := v.Migration(); m.State != workload.MigrationGoing {
		t.Errorf("before the hand-over: %s", m.State)
	}
	if err := v.RecoverMigration(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing to recover") {
		t.Errorf("while memory is copied: %v", err)
	}
	s.progress(migrate.Report{PostCopy: &migrate.PostCopy{State: "broken", Why: "no route"}})
	if m := v.Migration(); m.State != workload.MigrationServing || !strings.Contains(string(m.Report), "no route") {
		t.Errorf("%s, %s", m.State, m.Report)
	}
	if err := v.Away(); !errors.Is(err, workload.ErrNotRunning) || !strings.Contains(err.Error(), "host2") || left != 1 {
		t.Errorf("away: %v, told %d times", err, left)
	}
	if err := v.CancelMigration(t.Context()); err == nil || !strings.Contains(err.Error(), "too late") || ctx.Err() != nil {
		t.Errorf("cancel: %v, %v", err, ctx.Err())
	}
	if err := v.Resolve(t.Context(), workload.KeepSource); err == nil || !strings.Contains(err.Error(), "has run on") {
		t.Errorf("kept at the source: %v", err)
	}
	words := make(chan commit.Event, 2)
	go func() {
		words <- <-s.word
		s.progress(migrate.Report{PostCopy: &migrate.PostCopy{State: "serving"}})
		words <- <-s.word
	}()
	if err := v.RecoverMigration(t.Context()); err != nil {
		t.Error(err)
	}
	if err := v.Resolve(t.Context(), workload.KeepDestination); err != nil {
		t.Error(err)
	}
	if a, b := <-words, <-words; a != commit.Retry || b != commit.KeepDest {
		t.Errorf("said %q and %q", a, b)
	}
	s.end(&migrate.Report{PostCopy: &migrate.PostCopy{State: "drained"}}, nil)
	if m := v.Migration(); m.State != workload.MigrationOver || left != 1 {
		t.Errorf("afterwards: %s, told %d times", m.State, left)
	}
}

// A source that is killed while it sends is not read any more when its memory goes.
func TestAnEndingVMWaitsForWhoReadsItsMemory(t *testing.T) {
	v := &VM{}
	ctx, s := v.begin(context.Background(), "host2", nil)
	go func() {
		<-ctx.Done()
		s.end(&migrate.Report{}, context.Cause(ctx))
	}()
	begin := time.Now()
	s.finish()
	select {
	case <-s.over:
	default:
		t.Error("it was not waited for")
	}
	if time.Since(begin) > finishTimeout {
		t.Error("nobody was told")
	}
}

// What an attempt has come to is in a file from the first round on, for whoever looks
// when this process is gone.
func TestAnAttemptIsWrittenDownAsItGoes(t *testing.T) {
	v := &VM{dir: t.TempDir()}
	_, s := v.begin(t.Context(), "host2", nil)
	s.account(v, plan.Plan{})
	s.progress(migrate.Report{Rounds: make([]migrate.RoundReport, 1)})
	a, err := moves.LoadAttempt(v.dir)
	if err != nil || a.To != "host2" || len(a.Report.Rounds) != 1 || !a.Ended.IsZero() {
		t.Fatalf("under way: %+v, %v", a, err)
	}
	s.end(&migrate.Report{Outcome: "in-doubt"}, migrate.ErrInDoubt)
	a, err = moves.LoadAttempt(v.dir)
	if err != nil || a.Ended.IsZero() || a.Report.Outcome != "in-doubt" || a.Error == "" {
		t.Errorf("over: %+v, %v", a, err)
	}
}
