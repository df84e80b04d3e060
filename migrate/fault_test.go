package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

// quick are times that let faults show soon, and that a busy machine keeps.
func quick(r *rig) {
	s := &r.send
	s.Stall, s.Keepalive, s.Answer, s.Prepare, s.Blackout = 6*time.Second, 2400*time.Millisecond, 4*time.Second, 8*time.Second, 12*time.Second
	s.Doubt, s.Reconnects, s.Backoff, s.Downtime = 4*time.Second, 3, 5*time.Millisecond, time.Second
	d := &r.receive
	d.Stall, d.Keepalive, d.Go, d.Linger = 6*time.Second, 2400*time.Millisecond, 4*time.Second, 4*time.Second
}

// through makes the rig's link a proxy.
func (r *rig) through(t testing.TB, typ wire.Type, nth int, f fault) *proxy {
	t.Helper()
	p := newProxy(t, r.ln.Addr(), typ, nth, f)
	var d net.Dialer
	r.dial = func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", p.ln.Addr().String())
	}
	return p
}

// Every frame type meets every fault, in both directions: whatever happens,
// there is one runner, or the source knows that it is in doubt; and when the
// network is whole again, asking ends the doubt.
func TestEveryFaultLeavesOneRunner(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	// Most of the time goes by in waiting for somebody who does not answer: more
	// at a time than there are processors.
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, 16)
	for _, typ := range []wire.Type{
		wire.Hello, wire.Welcome, wire.Offer, wire.Prepared, wire.Pages, wire.Round, wire.Applied, wire.State, wire.Final,
		wire.Ready, wire.Go, wire.Running,
	} {
		for _, f := range []fault{drop, delay, repeat, flip, flipHead, cut, cutAfter, partition, isolate} {
			for _, nth := range []int{0, 1, 5} {
				if nth > 0 && typ != wire.Pages && !(nth == 1 && (typ == wire.Round || typ == wire.Hello || typ == wire.Welcome)) {
					continue
				}
				slots <- struct{}{}
				wg.Go(func() {
					defer func() { <-slots }()
					t.Run(fmt.Sprintf("%s %v %d", f, typ, nth), func(t *testing.T) { oneFault(t, typ, nth, f) })
				})
			}
		}
	}
}

func oneFault(t *testing.T, typ wire.Type, nth int, f fault) {
	r := newRig(t, func(r *rig) { quick(r); r.src.rate = 5 })
	p := r.through(t, typ, nth, f)
	rep, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
	t.Logf("%v after %v, %d reconnects; %v", rep.Outcome, rep.Total.Round(time.Millisecond), rep.Reconnects, err)
	if !p.wasMet() {
		t.Fatalf("the frame never came: seen %v", p.counts())
	}
	r.judge(t, err)
	if errors.Is(err, migrate.ErrInDoubt) {
		p.heal()
		o := r.send
		o.Doubt = 20 * time.Second
		err = migrate.Settle(t.Context(), r.src, r.dial, r.journal, o)
		t.Logf("settled: %v", err)
		if err != nil && !errors.Is(err, migrate.ErrRefused) {
			t.Errorf("the doubt was not settled: %v", err)
		}
	}
	// The destination ends its session by itself, whatever it heard.
	if p.counts()[wire.Prepared] > 0 {
		select {
		case o := <-r.receiver.Outcomes():
			t.Logf("destination: %s, %v", o.State, o.Err)
			if (o.State == commit.Running) != (err == nil) {
				t.Errorf("the source says %v, the destination is %s", err, o.State)
			}
		case <-time.After(20 * time.Second):
			t.Error("the destination's session does not end")
		}
	}
	r.judge(t, err)
	if err == nil {
		return
	}
	// And the guest can be sent again, as soon as the destination has given up.
	p.heal()
	for deadline := time.Now().Add(20 * time.Second); ; {
		rep, err = migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
		r.judge(t, err)
		if err == nil {
			return
		}
		if !errors.Is(err, migrate.ErrRefused) || time.Now().After(deadline) {
			t.Fatalf("the second attempt: %v, %+v", err, rep)
		}
	}
}
