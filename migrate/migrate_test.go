package migrate_test

import (
	"bytes"
	"testing"

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
