package migrate_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
)

// layered is a machine without RAM, of one disk: a workload that is started afresh.
type layered struct {
	layer   migrate.Volume
	running bool
	fails   error
}

func newLayered(t *testing.T, content string) *layered {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &layered{layer: migrate.Volume{Name: "layer", Size: uint64(len(content)), File: f}}
}

func (l *layered) Regions() []memory.Region    { return nil }
func (l *layered) Volumes() []migrate.Volume   { return []migrate.Volume{l.layer} }
func (l *layered) Pause(context.Context) error { return nil }
func (l *layered) Resume(context.Context) error {
	l.running = l.fails == nil
	return l.fails
}
func (l *layered) StartDirtyLog() error                     { return nil }
func (l *layered) StopDirtyLog() error                      { return nil }
func (l *layered) FetchDirty(int, []uint64) error           { return nil }
func (l *layered) FetchDirtyVolume(int, []uint64) error     { return nil }
func (l *layered) SaveState() ([]state.Section, error)      { return nil, nil }
func (l *layered) LoadState(sections []state.Section) error { return nil }

// What has no memory goes by the same hand-over, its destination hears that nobody will ask
// any more, and one whose start fails there is given back.
func TestWhatHasNoMemoryIsHandedOver(t *testing.T) {
	for _, fails := range []error{nil, errors.New("no such command")} {
		const content = "what it has written"
		src, dst := newLayered(t, content), newLayered(t, string(make([]byte, len(content))))
		dst.fails = fails
		done := make(chan struct{})
		r := newRig(t, func(r *rig) {
			r.send.Done = true
			r.receive.Done = func() { close(done) }
			r.receive.Prepare = func(context.Context, migrate.Offer) (migrate.Destination, error) { return dst, nil }
			r.receive.Drop = func(migrate.Destination) {}
		})
		report, err := migrate.Send(t.Context(), src, r.dial, r.journal, r.send)
		if fails != nil {
			if !errors.Is(err, migrate.ErrRefused) || dst.running || !src.running || report.Outcome != string(commit.Kept) {
				t.Errorf("a start that fails: %v, %s; the source runs %v", err, report.Outcome, src.running)
			}
			continue
		}
		if err != nil || !dst.running || src.running || report.RAM != 0 {
			t.Fatalf("%v; source runs %v, destination %v", err, src.running, dst.running)
		}
		if b, err := io.ReadAll(io.NewSectionReader(dst.layer.File, 0, 100)); string(b) != content {
			t.Errorf("there is %q (%v)", b, err)
		}
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("the destination was not told that it may go")
		}
	}
}
