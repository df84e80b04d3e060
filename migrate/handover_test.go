package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

// Failures of one side's machine before and after the point of no return: the
// guest runs on at the source, and the destination keeps nothing.
func TestFailuresKeepTheGuestAtTheSource(t *testing.T) {
	boom := errors.New("boom")
	for _, tc := range []struct {
		name   string
		change func(*rig)
		want   string
	}{
		{"source does not pause", func(r *rig) { r.src.failure["Pause"] = boom }, "pause guest: boom"},
		{"source cannot save", func(r *rig) { r.src.failure["SaveState"] = boom }, "boom"},
		{"source's disks do not sync", func(r *rig) { r.src.failure["Release"] = boom }, "make the disks durable"},
		{"no dirty log", func(r *rig) { r.src.failure["StartDirtyLog"] = boom }, "start the dirty log"},
		{"destination refuses the offer", func(r *rig) {
			r.receive.Prepare = func(context.Context, migrate.Offer) (migrate.Destination, error) { return nil, boom }
		}, "refused by the destination (prepare): boom"},
		{"destination has other RAM", func(r *rig) {
			r.receive.Prepare = func(context.Context, migrate.Offer) (migrate.Destination, error) { return r.small, nil }
		}, "region 0 is"},
		{"destination refuses the token", func(r *rig) {
			r.receive.Token = func(string) error { return errors.New("no such token") }
		}, "refused by the destination (token): no such token"},
		{"destination does not load", func(r *rig) { r.dst.failure["LoadState"] = boom }, "refused by the destination (state): boom"},
		{"destination gets no locks", func(r *rig) { r.dst.failure["Acquire"] = boom }, "promised never to run"},
		{"destination does not resume", func(r *rig) { r.dst.failure["Resume"] = boom }, "promised never to run"},
		{"intent cannot be written", func(r *rig) { r.journal = commit.File(filepath.Join(r.dir, "none", "record")) }, "stage the intent record"},
		{"intent cannot be published", func(r *rig) { r.journal = unpublished{r.journal} }, "write intent: disk full"},
		{"too many streams", func(r *rig) { r.send.Streams = 17 }, "17 streams"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, func(r *rig) { quick(r); tc.change(r) })
			rep, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			r.judge(t, err)
			if rep.Outcome != "kept" || rep.Reason == "" {
				t.Errorf("report %+v", rep)
			}
		})
	}
}

// The answer to GO may be that the destination revoked. That answer can be lost
// in all ways too.
func TestLostRevocationIsAskedFor(t *testing.T) {
	for _, f := range []fault{drop, repeat, flip, cut, cutAfter, partition} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(r *rig) { quick(r); r.dst.failure["Resume"] = errors.New("boom") })
			p := r.through(t, wire.Revoked, 0, f)
			_, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
			if f == partition {
				if !errors.Is(err, migrate.ErrInDoubt) {
					t.Fatalf("error %v", err)
				}
				r.judge(t, err)
				if _, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send); !errors.Is(err, migrate.ErrInDoubt) {
					t.Errorf("sent again while in doubt: %v", err)
				}
				p.heal()
				err = migrate.Settle(t.Context(), r.src, r.dial, r.journal, r.send)
			}
			if !errors.Is(err, migrate.ErrRefused) || !p.wasMet() {
				t.Errorf("error %v", err)
			}
			r.judge(t, err)
			if rec, err := r.journal.Load(); err != nil || rec.Verdict != commit.KeptRecord || rec.Epoch != 2 {
				t.Errorf("record %+v, %v", rec, err)
			}
		})
	}
}

// A destination that can write neither record says nothing, and the source
// stands still until it can.
func TestUnwritableRecordsLeaveDoubt(t *testing.T) {
	r := newRig(t, quick)
	dir := filepath.Join(r.dir, "records")
	aside := filepath.Join(r.dir, "aside")
	p := r.through(t, wire.Final, 0, "")
	p.hook = func() {
		if err := os.Rename(dir, aside); err != nil {
			t.Error(err)
		}
	}
	_, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
	if !errors.Is(err, migrate.ErrInDoubt) {
		t.Fatalf("error %v", err)
	}
	r.judge(t, err)
	if err := os.Rename(aside, dir); err != nil {
		t.Fatal(err)
	}
	err = migrate.Settle(t.Context(), r.src, r.dial, r.journal, r.send)
	if !errors.Is(err, migrate.ErrRefused) {
		t.Errorf("settled: %v", err)
	}
	r.judge(t, err)
}

func TestOperatorSettlesADeadPeer(t *testing.T) {
	for _, keep := range []bool{true, false} {
		t.Run(fmt.Sprintf("keep %v", keep), func(t *testing.T) {
			r := newRig(t, quick)
			r.through(t, wire.Go, 0, partition)
			_, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
			if !errors.Is(err, migrate.ErrInDoubt) {
				t.Fatalf("error %v", err)
			}
			r.judge(t, err)
			if err := migrate.Resolve(t.Context(), r.src, r.journal, keep, r.send); err != nil {
				t.Fatal(err)
			}
			rec, err := r.journal.Load()
			if keep && (rec.Verdict != commit.KeptRecord || len(r.world.runners()) != 1) || !keep && (rec.Verdict != commit.HandedRecord || len(r.world.runners()) != 0) {
				t.Errorf("record %+v, %v; %v runs", rec, err, r.world.runners())
			}
			if err := migrate.Resolve(t.Context(), r.src, r.journal, keep, r.send); err == nil {
				t.Error("settled twice")
			}
		})
	}
}

// A source that crashed after the intent knows nothing any more; the
// destination's copy is the guest.
func TestQuestionOfARestartedSourceIsAsGoodAsGo(t *testing.T) {
	r := newRig(t, func(r *rig) { quick(r); r.receive.Go = 3 * time.Second })
	p := r.through(t, wire.Go, 0, partition)
	r.send.Doubt = 100 * time.Millisecond
	_, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
	if !errors.Is(err, migrate.ErrInDoubt) {
		t.Fatalf("error %v", err)
	}
	p.heal()
	r.send.Doubt = time.Second
	if err := migrate.Settle(t.Context(), nil, r.dial, r.journal, r.send); err != nil {
		t.Errorf("settled: %v", err)
	}
	r.judge(t, nil)
}

func TestCancelledBeforeTheIntentChangesNothing(t *testing.T) {
	for _, typ := range []wire.Type{wire.Offer, wire.Pages, wire.Applied, wire.Final, wire.Ready} {
		t.Run(typ.String(), func(t *testing.T) {
			r := newRig(t, quick)
			p := r.through(t, typ, 0, drop)
			ctx, cancel := context.WithCancelCause(t.Context())
			p.hook = func() { cancel(errors.New("cancelled by the user")) }
			_, err := migrate.Send(ctx, r.src, r.dial, r.journal, r.send)
			if err == nil || errors.Is(err, migrate.ErrInDoubt) {
				t.Errorf("error %v", err)
			}
			r.judge(t, err)
		})
	}
}

func TestGuestThatWritesTooFast(t *testing.T) {
	fast := func(r *rig) {
		quick(r)
		r.src.rate, r.src.span = 200, 1000
		r.send.Rate, r.send.Downtime, r.send.MaxRounds = 20<<20, time.Millisecond, 6
		r.send.Blackout = 20 * time.Second
	}
	t.Run("cancels after so many rounds", func(t *testing.T) {
		r := newRig(t, fast)
		rep, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
		if !errors.Is(err, migrate.ErrNotConverging) || len(rep.Rounds) != 6 || rep.Blackout.Total != 0 {
			t.Errorf("error %v, %d rounds, blackout %v", err, len(rep.Rounds), rep.Blackout.Total)
		}
		r.judge(t, err)
	})
	t.Run("cancels when the time is up", func(t *testing.T) {
		r := newRig(t, func(r *rig) { fast(r); r.send.Timeout = 300 * time.Millisecond; r.send.MaxRounds = 1000 })
		rep, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
		if !errors.Is(err, migrate.ErrNotConverging) || rep.Total < 250*time.Millisecond {
			t.Errorf("error %v after %v", err, rep.Total)
		}
		r.judge(t, err)
	})
	for name, timeout := range map[string]time.Duration{"forced after so many rounds": 0, "forced when the time is up": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(r *rig) { fast(r); r.send.OnTimeout, r.send.Timeout = migrate.Force, timeout })
			rep, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
			if err != nil || rep.Blackout.Total == 0 {
				t.Errorf("error %v, blackout %v", err, rep.Blackout.Total)
			}
			r.judge(t, err)
		})
	}
	for name, timeout := range map[string]time.Duration{"slowed to a standstill after so many rounds": 0, "slowed to a standstill when the time is up": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			told := 0
			r := newRig(t, func(r *rig) {
				fast(r)
				r.send.OnTimeout, r.send.Timeout, r.send.Downtime = migrate.Slow, timeout, 40*time.Millisecond
				r.send.MaxRounds = 2 // before it is slowed down step by step
				if timeout > 0 {
					r.send.MaxRounds = 1000
				}
				r.send.Progress = func(p migrate.Report) { told = len(p.Rounds) }
			})
			rep, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
			if n := len(rep.Rounds); n == 0 || told != n || timeout == 0 && rep.Rounds[n-1].Throttle != 99 {
				t.Errorf("told of %d rounds of %+v", told, rep.Rounds)
			}
			if err != nil && !errors.Is(err, migrate.ErrNotConverging) { // a busy machine may not make it even so
				t.Error(err)
			}
			r.judge(t, err)
		})
	}
	t.Run("is slowed down if allowed", func(t *testing.T) {
		r := newRig(t, func(r *rig) {
			fast(r)
			r.send.Throttle, r.send.Downtime, r.send.MaxRounds = true, 40*time.Millisecond, 30
		})
		rep, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
		if err != nil || rep.Rounds[len(rep.Rounds)-1].Throttle == 0 {
			t.Errorf("error %v, rounds %+v", err, rep.Rounds)
		}
		r.judge(t, err)
	})
}

func TestRateIsKept(t *testing.T) {
	// Longer than Stall: no deadline of the handshake may be left on a connection.
	r := newRig(t, func(r *rig) { r.send.Rate, r.send.Stall = 6<<20, 500*time.Millisecond })
	rep, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
	if err != nil {
		t.Fatal(err)
	}
	if b := rep.Rounds[0].Bandwidth; b > 7<<20 || rep.Reconnects != 0 {
		t.Errorf("%.1f MiB/s, 6 were allowed; %d reconnects", b/(1<<20), rep.Reconnects)
	}
}

// Three breaks in one copy: what had been applied is not sent again.
func TestBrokenLinkResendsOnlyWhatWasInFlight(t *testing.T) {
	r := newRig(t, func(r *rig) { r.send.Streams, r.send.Rate = 2, 30<<20 })
	p := r.through(t, wire.Pages, 6, cut)
	p.hook = func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.nth < 18 {
			p.nth += 6
		}
	}
	rep, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
	if err != nil {
		t.Fatal(err)
	}
	r.judge(t, err)
	last := rep.Rounds[0].Pages // sent after the third break
	t.Logf("%d reconnects, %d pages again, %d after the last", rep.Reconnects, rep.Again, last)
	// A frame has 64 pages; each break catches those on their way, more of them
	// the longer a busy machine lets the destination wait. Eighteen frames were
	// sent before the last.
	if rep.Reconnects != 3 || rep.Again == 0 || last >= ramSize/page*3/4 {
		t.Errorf("%d reconnects, %d pages again, %d after the last", rep.Reconnects, rep.Again, last)
	}
}

func TestOneMachineAtATime(t *testing.T) {
	r := newRig(t, nil)
	p := r.through(t, wire.Pages, 0, delay)
	other := newMachine(t, newWorld(), "source", ramSize)
	var second error
	p.hook = func() {
		_, second = migrate.Send(t.Context(), other, r.dial, commit.File(filepath.Join(r.dir, "other")), r.send)
	}
	_, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
	if !errors.Is(second, migrate.ErrRefused) || !strings.Contains(second.Error(), "busy") {
		t.Errorf("second: %v", second)
	}
	if err != nil {
		t.Errorf("first: %v", err)
	}
	r.judge(t, err)
}

// unpublished is a journal whose intent may or may not have reached the disk.
type unpublished struct{ commit.Journal }

func (u unpublished) Stage(r commit.Record) (commit.Staged, error) {
	s, err := u.Journal.Stage(r)
	if r.Verdict == commit.IntentRecord {
		return halfway{s}, err
	}
	return s, err
}

type halfway struct{ commit.Staged }

func (h halfway) Publish() error { return errors.Join(h.Staged.Publish(), errors.New("disk full")) }
