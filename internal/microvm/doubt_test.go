package microvm

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/machine/microguest"
	"github.com/hvctl/hvctl/internal/moves"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
)

// doubtful is a VM whose guest has been handed to a destination that does not
// answer.
func doubtful(t *testing.T) (*VM, *handover) {
	t.Helper()
	testenv.Require(t, testenv.KVM)
	dir := t.TempDir()
	kernel := filepath.Join(dir, "kernel")
	if err := microguest.Write(kernel, microguest.Spin...); err != nil {
		t.Fatal(err)
	}
	m, err := machine.New(machine.Config{MemoryBytes: 16 << 20, Kernel: kernel})
	if err != nil {
		t.Fatal(err)
	}
	v := New(&workload.Config{Name: "web"}, dir, slog.New(slog.DiscardHandler))
	v.machine = m
	g := v.launch(agent.New(guestSockets{}, agent.Options{}), func() {})
	t.Cleanup(func() {
		g.stop(errClosed)
		<-g.ended
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := &handover{
		v: v, g: g, to: "far away", journal: commit.File(filepath.Join(dir, moves.SentFile)),
		dial:    func(context.Context) (net.Conn, error) { return nil, errors.New("nobody there") },
		options: migrate.SendOptions{VM: "web", Doubt: time.Millisecond, Backoff: time.Millisecond},
	}
	if err := commit.Store(h.journal, commit.Record{Verdict: commit.IntentRecord, Session: "0123456789abcdef0123456789abcdef", Epoch: 1, VM: "web", Peer: "far away"}); err != nil {
		t.Fatal(err)
	}
	h.ask()
	return v, h
}

func TestAGuestInDoubtStandsStillWhateverIsAsked(t *testing.T) {
	v, h := doubtful(t)
	ctx := t.Context()
	_, snap := v.Snapshot(ctx, t.TempDir(), nil)
	_, sent := v.Migrate(ctx, workload.MigrateRequest{To: workload.Endpoint{Address: "unix:/x"}})
	_, exec := v.Exec(ctx, nil, workload.Stdio{})
	for name, err := range map[string]error{"pause": v.Pause(ctx), "resume": v.Resume(ctx), "snapshot": snap, "migrate": sent, "exec": exec} {
		if !errors.Is(err, errDoubt) || !errors.Is(err, workload.ErrNotRunning) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !h.g.machine.Paused() || v.Inspect()["migrationInDoubt"] != "far away" {
		t.Errorf("paused %v, inspect %v", h.g.machine.Paused(), v.Inspect())
	}
}

func TestTheOperatorSaysWhoKeepsTheGuest(t *testing.T) {
	v, h := doubtful(t)
	if err := v.Resolve(t.Context(), workload.KeepSource); err != nil {
		t.Fatal(err)
	}
	if h.g.machine.Paused() || v.doubt.Load() != nil || v.moved.Load() != nil {
		t.Errorf("kept: paused %v, in doubt %v", h.g.machine.Paused(), v.doubt.Load() != nil)
	}
	if err := v.Resolve(t.Context(), workload.KeepSource); err == nil {
		t.Error("a second time")
	}
	if r, err := h.journal.Load(); err != nil || r.Verdict != commit.KeptRecord {
		t.Errorf("record %+v, %v", r, err)
	}

	v, h = doubtful(t)
	if err := v.Resolve(t.Context(), workload.KeepDestination); err != nil {
		t.Fatal(err)
	}
	<-h.g.ended
	if to := v.moved.Load(); to == nil || *to != "far away" || v.doubt.Load() != nil {
		t.Errorf("given up: moved %v, in doubt %v", to, v.doubt.Load() != nil)
	}
}
