package migrate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
)

func TestGuestArrivesWholeWhileItWrites(t *testing.T) {
	for _, tc := range []struct {
		name    string
		rate    int
		streams int
	}{{"idle", 0, 1}, {"idle, 4 streams", 0, 4}, {"writing", 20, 2}} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, func(r *rig) { r.src.rate, r.send.Streams = tc.rate, tc.streams })
			rep, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
			var table bytes.Buffer
			_ = rep.WriteTable(&table)
			t.Logf("\n%s", table.String())
			if err != nil {
				t.Fatal(err)
			}
			if o := <-r.receiver.Outcomes(); o.State != commit.Running || o.Destination != r.dst {
				t.Errorf("outcome %+v", o)
			}
			r.judge(t, err)
			if rec, err := r.journal.Load(); err != nil || rec.Verdict != commit.HandedRecord || rec.Epoch != 1 {
				t.Errorf("record %+v, %v", rec, err)
			}
			if rep.Outcome != "handed" || rep.Holes == 0 || rep.Rounds[0].Skipped == 0 || rep.Blackout.Total == 0 {
				t.Errorf("report %+v", rep)
			}
		})
	}
}

func TestOnceMeansOneMachine(t *testing.T) {
	r := newRig(t, func(r *rig) { quick(r); r.receive.Once = true })
	if _, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send); err != nil {
		t.Fatal(err)
	}
	<-r.receiver.Outcomes()
	other := newMachine(t, newWorld(), "source", ramSize)
	_, err := migrate.Send(t.Context(), other, r.dial, commit.File(filepath.Join(r.dir, "other")), r.send)
	if !errors.Is(err, migrate.ErrRefused) {
		t.Errorf("a second machine: %v", err)
	}
	r.judge(t, nil)
}

// Chained migrations: the destination of one is the source of the next, with
// the same bytes at the end as at the beginning.
func TestGuestTravelsOn(t *testing.T) {
	r := newRig(t, quick)
	from, journal := r.src, r.journal
	for hop := range 5 {
		name := fmt.Sprintf("host %d", hop)
		to := newMachine(t, r.world, name, ramSize)
		r.halt(t)
		r.receive.Prepare = func(context.Context, migrate.Offer) (migrate.Destination, error) { return to, nil }
		var err error
		if r.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		r.start(t)
		if _, err := migrate.Send(t.Context(), from, r.dial, journal, r.send); err != nil {
			t.Fatalf("hop %d: %v", hop, err)
		}
		<-r.receiver.Outcomes()
		if got := r.world.runners(); len(got) != 1 || got[0] != name {
			t.Fatalf("hop %d: %v runs", hop, got)
		}
		from, journal = to, commit.File(filepath.Join(r.dir, name))
	}
	if err := from.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = from.g.WriteAt(make([]byte, 5), 3*page) // where saving wrote
	_ = r.src.g.WriteAt(make([]byte, 5), 3*page)
	if got := from.hash(); got != r.src.hash() {
		t.Error("the memory changed on the way")
	}
}

// Files of huge pages can be mapped, not written.
func TestGuestArrivesInHugePages(t *testing.T) {
	g, err := memory.New(memory.Options{Regions: []memory.Span{{GPA: 0, Size: 2 << 20}}, HugePages: true})
	if err != nil {
		t.Skipf("no huge pages are reserved here: %v", err)
	}
	t.Cleanup(func() { _ = g.Close() })
	r := newRig(t, quick)
	r.halt(t)
	small, err := memory.New(memory.Options{Size: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = small.Close() })
	fill(small)
	r.src.halt()
	r.src.g, r.dst.g = small, g
	r.receive.Prepare = func(context.Context, migrate.Offer) (migrate.Destination, error) { return r.dst, nil }
	if r.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	r.start(t)
	if err := r.src.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
	if err != nil {
		t.Error(err)
	}
	r.judge(t, err)
}
