package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
)

// goer is a runtime that goes elsewhere and leaves memory behind. What the tests
// may not reach is nil in it.
type goer struct {
	workload.Runtime
	workload.Migrator
	workload.Pauser
	workload.Snapshotter
	workload.Dumper
	workload.Tracer
	workload.Copier
	workload.Lister
	workload.Upgrader
	workload.OwnerUpdater
	leave  chan struct{} // closed when it is to go
	drain  chan struct{} // closed when nothing is left here
	away   atomic.Bool
	asked  atomic.Int32 // for Away
	killed atomic.Bool
}

func (g *goer) Migrate(_ context.Context, r workload.MigrateRequest) (json.RawMessage, error) {
	<-g.leave
	g.away.Store(true)
	r.Left()
	<-g.drain
	return nil, nil
}

func (g *goer) Away() error {
	g.asked.Add(1)
	if g.away.Load() {
		return fmt.Errorf("%w here: it runs at host2", workload.ErrNotRunning)
	}
	return nil
}

func (g *goer) Migration() workload.MigrationStatus {
	return workload.MigrationStatus{State: workload.MigrationServing}
}
func (g *goer) Kill(context.Context) error { g.killed.Store(true); return nil }
func (g *goer) Stats(context.Context) (workload.Stats, error) {
	return workload.Stats{}, nil
}

// newGone returns the owner of a running goer that is being sent.
func newGone(t *testing.T) (*owner, *goer, chan error) {
	t.Helper()
	s, err := instance.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	inst, err := s.Create(&workload.Config{Name: "web", Backend: "fake", Spec: &specs.Spec{Process: &specs.Process{}}}, instance.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	g := &goer{leave: make(chan struct{}), drain: make(chan struct{})}
	o := newOwner(inst, workload.State{Status: workload.Running})
	o.rt = g
	close(o.started)
	sent := make(chan error, 1)
	go func() {
		_, err := o.Migrate(t.Context(), workload.MigrateRequest{})
		sent <- err
	}()
	return o, g, sent
}

// Whoever waited for the end of a migration, and whoever comes later, is refused
// when the instance runs elsewhere on memory that is partly here.
func TestWhatHasGoneElsewhereIsRefusedAtOnce(t *testing.T) {
	o, g, sent := newGone(t)
	waiting := make(chan error, 1)
	await := func(asked int32) {
		for g.asked.Load() < asked {
			runtime.Gosched()
		}
	}
	await(2) // the migration has the right to pause
	go func() { waiting <- o.Pause(t.Context()) }()
	await(3)
	close(g.leave)
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, workload.ErrNotRunning) || !strings.Contains(err.Error(), "web: ") || !strings.Contains(err.Error(), "host2") {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("a pause that waited", <-waiting)
	ctx := t.Context()
	refused("pause", o.Pause(ctx))
	refused("resume", o.Resume(ctx))
	_, err := o.Snapshot(ctx, control.SnapshotRequest{})
	refused("snapshot", err)
	_, err = o.Dump(ctx, control.DumpRequest{})
	refused("dump", err)
	_, err = o.Stop(ctx, control.StopRequest{})
	refused("stop", err)
	refused("signal", o.Signal(ctx, "", unix.SIGTERM))
	_, err = o.Exec(ctx, control.ExecRequest{Process: &specs.Process{}}, nil)
	refused("exec", err)
	refused("copy", o.Copy(ctx, control.CopyRequest{}, nil))
	_, err = o.Tasks(ctx)
	refused("top", err)
	refused("update", o.Update(ctx, workload.Update{}))
	refused("trace", o.Trace(ctx, workload.TraceRequest{}, nil, nil))
	_, err = o.Upgrade(ctx, control.UpgradeRequest{})
	refused("upgrade", err)
	_, err = o.Migrate(ctx, workload.MigrateRequest{})
	refused("another migration", err)
	_, err = o.PlanMigration(ctx, workload.MigrateRequest{})
	refused("a plan of one", err)

	if _, err := o.Info(ctx); err != nil {
		t.Errorf("inspect: %v", err)
	}
	if _, err := o.Stats(ctx); err != nil {
		t.Errorf("stats: %v", err)
	}
	if m, err := o.Migration(ctx); err != nil || m.State != workload.MigrationServing {
		t.Errorf("migrate status: %v, %v", m, err)
	}
	if err := o.Signal(ctx, "", unix.SIGKILL); err != nil || !g.killed.Load() {
		t.Errorf("kill: %v", err)
	}
	close(g.drain)
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
