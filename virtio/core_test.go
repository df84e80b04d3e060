package virtio_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

// puppet is a device whose worker does what the test says.
type puppet struct {
	queues   int
	activate func(context.Context, *virtio.Env) error
	work     chan func(*virtio.Queue) error
	env      atomic.Pointer[virtio.Env]
	resets   atomic.Int64
	closed   atomic.Bool
}

func newPuppet() *puppet { return &puppet{queues: 1, work: make(chan func(*virtio.Queue) error, 16)} }

func (p *puppet) Info() virtio.Info {
	i := virtio.Info{ID: virtio.IDConsole}
	for range p.queues {
		i.QueueSizes = append(i.QueueSizes, 8)
	}
	return i
}

func (p *puppet) Activate(ctx context.Context, env *virtio.Env) error {
	p.env.Store(env)
	if p.activate != nil {
		return p.activate(ctx, env)
	}
	return nil
}

func (p *puppet) HandleQueue(_ context.Context, q *virtio.Queue) error {
	for {
		select {
		case f := <-p.work:
			if err := f(q); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

func (p *puppet) Reset()                          { p.resets.Add(1) }
func (p *puppet) Close() error                    { p.closed.Store(true); return nil }
func (p *puppet) StateVersion() uint32            { return 1 }
func (p *puppet) SaveState() (any, error)         { return struct{}{}, nil }
func (p *puppet) LoadState(d state.Decoder) error { return d.Into(&struct{}{}) }

// on runs f on the worker of queue 0 and waits for it.
func (p *puppet) on(t *testing.T, f func(q *virtio.Queue)) {
	t.Helper()
	done := make(chan struct{})
	p.work <- func(q *virtio.Queue) error {
		defer close(done)
		f(q)
		return nil
	}
	p.env.Load().Kick(0)
	<-done
}

// send makes the worker return err.
func (p *puppet) send(err error) {
	p.work <- func(*virtio.Queue) error { return err }
	p.env.Load().Kick(0)
}

func pop(t *testing.T, q *virtio.Queue) virtio.Chain {
	t.Helper()
	c, ok, err := q.Pop()
	if !ok || err != nil {
		t.Errorf("Pop = %v, %v", ok, err)
	}
	return c
}

func push(t *testing.T, q *virtio.Queue, c virtio.Chain, n uint32) {
	t.Helper()
	if err := q.Push(c, n); err != nil {
		t.Errorf("Push = %v", err)
	}
}

func TestChainsOfAnyShape(t *testing.T) {
	p := newPuppet()
	d := virtiotest.Start(t, p, virtiotest.Options{})
	bufs := []virtiotest.Buf{virtiotest.Out([]byte("ab")), virtiotest.Out([]byte("c")), virtiotest.In(3), virtiotest.In(1)}
	for _, add := range []func(...virtiotest.Buf) uint16{d.Queue(0).Add, d.Queue(0).AddIndirect} {
		add(bufs...)
		p.on(t, func(q *virtio.Queue) {
			c := pop(t, q)
			b := make([]byte, 8)
			if n := c.Readable.CopyOut(b); string(b[:n]) != "abc" || c.Writable.Len() != 4 {
				t.Errorf("chain %q and %d bytes", b[:n], c.Writable.Len())
			}
			c.Writable.CopyIn([]byte("wxyz"))
			c.Writable = memory.Vec{} // Push knows the chain better than this copy
			push(t, q, c, 4)
		})
		if u := d.Queue(0).Wait(); u.Written != 4 || string(u.In) != "wxyz" {
			t.Errorf("got %q, %d bytes", u.In, u.Written)
		}
	}
	// Ordinary descriptors followed by an indirect one (§2.7.5.3.2).
	q := d.Queue(0)
	a := d.Alloc(16, 16)
	d.Write(a, []byte("headtail"))
	table := q.WriteTable(virtiotest.Desc{Addr: a + 4, Len: 4, Flags: virtiotest.FlagNext, Next: 1}, virtiotest.Desc{Addr: a + 8, Len: 2, Flags: virtiotest.FlagWrite})
	q.WriteDesc(0, virtiotest.Desc{Addr: a, Len: 4, Flags: virtiotest.FlagNext, Next: 1})
	q.WriteDesc(1, virtiotest.Desc{Addr: table, Len: 32, Flags: virtiotest.FlagIndirect | virtiotest.FlagWrite})
	q.Offer(0)
	p.on(t, func(q *virtio.Queue) {
		c := pop(t, q)
		b := make([]byte, 10)
		if n := c.Readable.CopyOut(b); string(b[:n]) != "headtail" || c.Writable.Len() != 2 {
			t.Errorf("mixed chain %q and %d bytes", b[:n], c.Writable.Len())
		}
		push(t, q, c, 0)
	})
}

func TestPushMarksDirtyAndRefusesMistakes(t *testing.T) {
	p := newPuppet()
	d := virtiotest.Start(t, p, virtiotest.Options{})
	a := d.Alloc(3*memory.PageSize, memory.PageSize)
	d.Queue(0).Add(virtiotest.Out([]byte("x")), virtiotest.At(a+8, 2*memory.PageSize, true))
	d.Mem.Dirty().Clear()
	p.on(t, func(q *virtio.Queue) {
		c := pop(t, q)
		if d.Mem.Dirty().Count() != 0 {
			t.Error("Pop marked pages dirty")
		}
		if err := q.Push(c, 2*memory.PageSize+1); err == nil {
			t.Error("pushed more than the chain holds")
		}
		push(t, q, c, 1)
		for i := range uint64(3) {
			if !d.Mem.Dirty().Has(uint64(a)/memory.PageSize + i) {
				t.Errorf("page %d of the buffer is clean", i)
			}
		}
		if n := d.Mem.Dirty().Count(); n != 4 { // and the used ring
			t.Errorf("%d dirty pages, want 4", n)
		}
		if err := q.Push(c, 0); err == nil {
			t.Error("pushed twice")
		}
		if err := q.Push(virtio.Chain{Head: 999}, 0); err == nil {
			t.Error("pushed a chain that never was")
		}
	})
}

func TestUnpopGivesTheSameChainAgain(t *testing.T) {
	p := newPuppet()
	d := virtiotest.Start(t, p, virtiotest.Options{})
	first, second := d.Queue(0).Add(virtiotest.In(1)), d.Queue(0).Add(virtiotest.In(2))
	p.on(t, func(q *virtio.Queue) {
		a, b := pop(t, q), pop(t, q)
		if err := errors.Join(q.Unpop(b), q.Unpop(a)); err != nil {
			t.Error(err)
		}
		if err := q.Unpop(a); err == nil {
			t.Error("gave the same chain back twice")
		}
	})
	d.Stop() // nothing is in flight
	d.Resume()
	p.on(t, func(q *virtio.Queue) {
		a, b := pop(t, q), pop(t, q)
		if a.Head != first || b.Head != second {
			t.Errorf("chains %d, %d; want %d, %d", a.Head, b.Head, first, second)
		}
		push(t, q, b, 2)
		push(t, q, a, 1)
	})
	if u := d.Queue(0).Wait(); u.Head != second || u.Written != 2 {
		t.Errorf("first used element %+v", u)
	}
}

func TestChainInFlightCannotBeOfferedAgain(t *testing.T) {
	p := newPuppet()
	d := virtiotest.Start(t, p, virtiotest.Options{})
	head := d.Queue(0).Add(virtiotest.In(1))
	d.Queue(0).Offer(head)
	p.on(t, func(q *virtio.Queue) {
		pop(t, q)
		if _, _, err := q.Pop(); !errors.Is(err, virtio.ErrGuest) {
			t.Errorf("Pop = %v, want ErrGuest", err)
		}
	})
}

// serve pops and pushes everything there is.
func serve(q *virtio.Queue) error {
	for {
		c, ok, err := q.Pop()
		if !ok || err != nil {
			return err
		}
		if err := q.Push(c, 0); err != nil {
			return err
		}
	}
}

func TestInterruptSuppression(t *testing.T) {
	for _, c := range []struct {
		name     string
		without  virtio.Features
		suppress func(q *virtiotest.Queue, on bool)
	}{
		{"flag", virtio.FeatureEventIdx, func(q *virtiotest.Queue, on bool) { q.NoInterrupts(on) }},
		{"event index", 0, func(q *virtiotest.Queue, on bool) {
			if on {
				q.SetUsedEvent(q.UsedIdx() + 100)
			} else {
				q.SetUsedEvent(q.UsedIdx())
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPuppet()
			d := virtiotest.Start(t, p, virtiotest.Options{Without: c.without})
			q := d.Queue(0)
			want := d.Link.Interrupts(0)
			for i := range 70000 / 4 { // past the wrap of the 16-bit indices
				on := i%3 == 0
				c.suppress(q, on)
				for range 4 {
					q.Add(virtiotest.At(0x100, 8, true))
				}
				p.on(t, func(q *virtio.Queue) {
					if err := serve(q); err != nil {
						t.Error(err)
					}
					if err := q.Flush(); err != nil {
						t.Error(err)
					}
				})
				for range 4 {
					q.Wait()
				}
				if !on {
					want++
				}
				if got := d.Link.Interrupts(0); got != want {
					t.Fatalf("batch %d (suppressed %v): %d interrupts, want %d", i, on, got, want)
				}
			}
		})
	}
}

func TestUsedEventInsideABatchInterrupts(t *testing.T) {
	p := newPuppet()
	d := virtiotest.Start(t, p, virtiotest.Options{})
	for event, want := range map[uint16]uint64{0: 1, 3: 1, 4: 0, 0xffff: 0} {
		d.Renew()
		q := d.Queue(0)
		q.SetUsedEvent(event)
		seen := d.Link.Interrupts(0)
		for range 4 {
			q.Add(virtiotest.In(1))
		}
		p.on(t, func(q *virtio.Queue) { _ = serve(q); _ = q.Flush() })
		if got := d.Link.Interrupts(0) - seen; got != want {
			t.Errorf("used_event %d and used.idx 0 to 4: %d interrupts, want %d", event, got, want)
		}
	}
}

func TestDoorbellIsWantedOnlyWhenTheWorkerWaits(t *testing.T) {
	for name, without := range map[string]virtio.Features{"flag": virtio.FeatureEventIdx, "event index": 0} {
		t.Run(name, func(t *testing.T) {
			p := newPuppet()
			d := virtiotest.Start(t, p, virtiotest.Options{Without: without})
			q := d.Queue(0)
			for range 20 {
				p.on(t, func(w *virtio.Queue) {
					if err := serve(w); err != nil { // finds it empty, so the doorbell gets armed
						t.Error(err)
					}
				})
				d.Eventually("the doorbell is armed", func() bool {
					q.Settle()
					before := q.UsedIdx()
					q.Add(virtiotest.In(1))
					wants := q.WantsKick(before)
					p.on(t, func(w *virtio.Queue) {
						busy := q.UsedIdx() + 1
						c := pop(t, w)
						q.Add(virtiotest.In(1))
						if q.WantsKick(busy) {
							t.Error("wants a doorbell while it works")
						}
						push(t, w, c, 0)
						if err := serve(w); err != nil {
							t.Error(err)
						}
					})
					q.Wait()
					q.Wait()
					return wants
				})
			}
		})
	}
}

// TestNoChainIsForgotten is the race of §2.7.10: the driver adds chains and rings
// only when it is asked to. Each must come back.
func TestNoChainIsForgotten(t *testing.T) {
	for name, without := range map[string]virtio.Features{"flag": virtio.FeatureEventIdx, "event index": 0} {
		t.Run(name, func(t *testing.T) {
			d := virtiotest.Start(t, sink{newPuppet()}, virtiotest.Options{Without: without})
			q := d.Queue(0)
			idx, done := uint16(0), 0
			for range 20000 {
				q.Add(virtiotest.At(0x100, 4, true))
				if q.WantsKick(idx) {
					q.Kick()
				}
				idx++
				for {
					if _, ok := q.TryWait(); !ok {
						break
					}
					done++
				}
				if int(idx)-done >= 8 {
					q.Wait() // hangs if a chain was forgotten
					done++
				}
			}
		})
	}
}

// late is a sink after whose first look the driver offers one more chain, before
// the doorbell is armed.
type late struct {
	*puppet
	after func()
}

func (l *late) HandleQueue(_ context.Context, q *virtio.Queue) error {
	err := serve(q)
	if l.after != nil {
		l.after()
		l.after = nil
	}
	return err
}

func TestChainOfferedBeforeTheDoorbellWasArmed(t *testing.T) {
	for name, without := range map[string]virtio.Features{"flag": virtio.FeatureEventIdx, "event index": 0} {
		t.Run(name, func(t *testing.T) {
			l := &late{puppet: newPuppet()}
			d := virtiotest.New(t, l, virtiotest.Options{Without: without})
			d.Negotiate()
			d.SetupQueues()
			q := d.Queue(0)
			q.Add(virtiotest.In(1))
			added := make(chan struct{})
			l.after = func() {
				defer close(added)
				q.Add(virtiotest.In(1)) // and no doorbell: none was asked for
			}
			d.DriverOK()
			<-added
			q.Wait()
			q.Wait()
		})
	}
}

func TestFailedDriverIsLeftAlone(t *testing.T) {
	p := newPuppet()
	d := virtiotest.Start(t, p, virtiotest.Options{})
	d.Queue(0).Add(virtiotest.In(1))
	p.on(t, func(q *virtio.Queue) { // in the middle of a run
		d.Link.SetStatus(d.Link.Status() | virtio.StatusFailed)
		if _, ok, err := q.Pop(); ok || err != nil {
			t.Errorf("Pop after FAILED = %v, %v", ok, err)
		}
	})
	d.Stop()
	d.Resume()
	runs := d.Link.Core().Runs(0)
	d.Queue(0).Kick()
	d.Stop()
	if d.Link.Core().Runs(0) != runs {
		t.Error("a worker ran for a driver that has given up")
	}
}

func TestStateThatCannotBeIsRefused(t *testing.T) {
	good := virtio.CoreState{Status: 0xf, Driver: virtio.FeatureVersion1, Queues: []virtio.QueueState{
		{Size: 8, Enabled: true, Desc: 0x1000, Avail: 0x2000, Used: 0x3000, NextAvail: 3, NextUsed: 3},
	}}
	for _, c := range []struct {
		name string
		harm func(*virtio.CoreState)
		ok   bool
	}{
		{"as saved", func(*virtio.CoreState) {}, true},
		{"indices wrapped", func(s *virtio.CoreState) { s.Queues[0].NextAvail, s.Queues[0].NextUsed = 2, 0xfffe }, true},
		{"impossible status", func(s *virtio.CoreState) { s.Status = 4 }, false},
		{"unknown status bit", func(s *virtio.CoreState) { s.Status = 0x1f }, false},
		{"features not offered", func(s *virtio.CoreState) { s.Driver |= 1 << 50 }, false},
		{"no VERSION_1", func(s *virtio.CoreState) { s.Driver = 0 }, false},
		{"no queues", func(s *virtio.CoreState) { s.Queues = nil }, false},
		{"queue before features", func(s *virtio.CoreState) { s.Status = 3 }, false},
		{"size no power of two", func(s *virtio.CoreState) { s.Queues[0].Size = 6 }, false},
		{"size too large", func(s *virtio.CoreState) { s.Queues[0].Size = 16 }, false},
		{"ring outside RAM", func(s *virtio.CoreState) { s.Queues[0].Used = 1 << 40 }, false},
		{"indices too far apart", func(s *virtio.CoreState) { s.Queues[0].NextAvail = 12 }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := virtiotest.New(t, sink{newPuppet()}, virtiotest.Options{})
			s := good
			s.Queues = append([]virtio.QueueState(nil), good.Queues...)
			c.harm(&s)
			err := d.Link.Core().LoadState(s)
			if c.ok != (err == nil) || !c.ok && !errors.Is(err, virtio.ErrState) {
				t.Fatalf("LoadState = %v", err)
			}
			if !c.ok {
				if d.Link.Status() != 0 {
					t.Error("a refused state changed the device")
				}
				return
			}
			if err := d.Link.Core().LoadState(good); !errors.Is(err, virtio.ErrBusy) {
				t.Errorf("second LoadState = %v", err)
			}
		})
	}
}

// sink is a device that takes everything at once.
type sink struct{ *puppet }

func (sink) HandleQueue(_ context.Context, q *virtio.Queue) error { return serve(q) }

func TestWorkerTroubleIsSortedByFault(t *testing.T) {
	for _, c := range []struct {
		name  string
		do    func(*puppet)
		needs bool
		want  error
	}{
		{"driver's", func(p *puppet) { p.send(virtio.GuestErrorf("nonsense")) }, true, nil},
		{"ours", func(p *puppet) { p.send(io.ErrUnexpectedEOF) }, false, io.ErrUnexpectedEOF},
		{"panic", func(p *puppet) {
			p.work <- func(*virtio.Queue) error { panic("oh") }
			p.env.Load().Kick(0)
		}, false, virtio.ErrPanic},
		{"lent memory", func(p *puppet) {
			p.work <- func(*virtio.Queue) error { return touchLost(t) }
			p.env.Load().Kick(0)
		}, false, unix.EFAULT},
		{"host side", func(p *puppet) {
			p.env.Load().Go("source", func(context.Context) error { return io.ErrClosedPipe })
		}, false, io.ErrClosedPipe},
		{"host side, driver's", func(p *puppet) {
			p.env.Load().Go("source", func(context.Context) error { return virtio.GuestErrorf("no") })
		}, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPuppet()
			d := virtiotest.Start(t, p, virtiotest.Options{MayFail: true})
			c.do(p)
			d.Eventually("the end of the device", func() bool {
				return len(d.Failures()) > 0 || d.Link.Status()&virtio.StatusNeedsReset != 0
			})
			if c.needs {
				d.WaitConfigInterrupt(0)
				if d.Link.Core().Metrics().GuestErrors.Load() != 1 || len(d.Failures()) != 0 {
					t.Errorf("guest errors %d, failures %v", d.Link.Core().Metrics().GuestErrors.Load(), d.Failures())
				}
			} else if f := d.Failures(); len(f) != 1 || !errors.Is(f[0], c.want) {
				t.Errorf("failures %v, want %v", f, c.want)
			}
			d.Renew() // either way the device can be reset
			p.on(t, func(*virtio.Queue) {})
		})
	}
}

// touchLost reads a mapped file that has been shrunk.
func touchLost(t *testing.T) error {
	f, err := os.Create(filepath.Join(t.TempDir(), "lost"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(memory.PageSize); err != nil {
		return err
	}
	m, err := memory.MapFile(f, memory.PageSize, false)
	if err != nil {
		return err
	}
	t.Cleanup(func() { _ = m.Close() })
	if err := f.Truncate(0); err != nil {
		return err
	}
	copy(make([]byte, 8), m.Bytes())
	return errors.New("no fault")
}

func TestActivateErrorSetsNeedsReset(t *testing.T) {
	p := newPuppet()
	p.activate = func(context.Context, *virtio.Env) error { return errors.New("no tap") }
	d := virtiotest.New(t, p, virtiotest.Options{})
	d.Negotiate()
	d.SetupQueues()
	d.Link.SetStatus(d.Link.Status() | virtio.StatusDriverOK)
	d.WaitNeedsReset()
	p.activate = nil
	d.Renew()
}

func TestHostSideEndsWithItsContext(t *testing.T) {
	p := newPuppet()
	var live atomic.Int64
	p.activate = func(_ context.Context, env *virtio.Env) error {
		env.Go("source", func(ctx context.Context) error {
			live.Add(1)
			defer live.Add(-1)
			<-ctx.Done()
			return errors.New("interrupted") // not a failure: ctx has ended
		})
		return nil
	}
	d := virtiotest.Start(t, p, virtiotest.Options{})
	running := func() bool { return live.Load() == 1 }
	d.Eventually("the source runs", running)
	env := p.env.Load()
	d.Stop()
	if live.Load() != 0 {
		t.Error("source outlived the pause")
	}
	env.Go("late", func(context.Context) error { t.Error("ran after the end of its Env"); return nil })
	d.Resume()
	d.Eventually("the source runs again", running)
	d.Reset()
	if live.Load() != 0 || p.resets.Load() == 0 {
		t.Error("source outlived the reset")
	}
}

func TestStopGivesUpInTimeAndCanBeRepeated(t *testing.T) {
	p := newPuppet()
	d := virtiotest.Start(t, p, virtiotest.Options{})
	hold, held := make(chan struct{}), make(chan struct{})
	p.work <- func(*virtio.Queue) error { close(held); <-hold; return nil }
	p.env.Load().Kick(0)
	<-held
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Link.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Stop = %v, want context.Canceled", err)
	}
	if _, err := d.Link.SaveState(); !errors.Is(err, virtio.ErrBusy) {
		t.Errorf("SaveState of a running device = %v, want ErrBusy", err)
	}
	close(hold)
	d.Stop()
	if _, err := d.Link.SaveState(); err != nil {
		t.Error(err)
	}
	d.Resume()
	p.on(t, func(*virtio.Queue) {})
}

func TestKeptChainMakesStopFail(t *testing.T) {
	p := newPuppet()
	d := virtiotest.Start(t, p, virtiotest.Options{})
	d.Queue(0).Add(virtiotest.In(1))
	p.on(t, func(q *virtio.Queue) { pop(t, q) })
	if err := d.Link.Stop(t.Context()); !errors.Is(err, virtio.ErrBusy) {
		t.Errorf("Stop = %v, want ErrBusy", err)
	}
}

func TestConfigChanged(t *testing.T) {
	p := newPuppet()
	d := virtiotest.Start(t, p, virtiotest.Options{})
	gen := d.Link.Core().Generation()
	p.env.Load().ConfigChanged()
	d.WaitConfigInterrupt(0)
	if d.Link.Core().Generation() == gen {
		t.Error("generation did not change")
	}
}

func TestDisabledQueueIsNotServed(t *testing.T) {
	p := newPuppet()
	d := virtiotest.Start(t, p, virtiotest.Options{})
	d.Queue(0).Settle()
	core := d.Link.Core()
	core.DisableQueue(0)
	core.DisableQueue(0)
	runs := core.Runs(0)
	d.Queue(0).Kick()
	core.EnableQueue(0) // too late
	if core.QueueEnabled(0) {
		t.Error("enabled again while live")
	}
	d.Stop()
	d.Resume()
	if core.Runs(0) != runs {
		t.Error("worker of a disabled queue ran")
	}
	d.Renew()
	p.on(t, func(*virtio.Queue) {})
}

// waiter is a device whose worker waits for the host.
type waiter struct {
	*puppet
	waits chan struct{}
}

func (w waiter) HandleQueue(ctx context.Context, _ *virtio.Queue) error {
	w.waits <- struct{}{}
	<-ctx.Done()
	return ctx.Err() // no failure: it was asked to end
}

func TestDisablingAQueueEndsAWorkerThatWaits(t *testing.T) {
	w := waiter{newPuppet(), make(chan struct{}, 1)}
	d := virtiotest.Start(t, w, virtiotest.Options{})
	<-w.waits
	d.Link.Core().DisableQueue(0) // hangs if the worker is not told
	d.Renew()
	<-w.waits
}

// taker is a device whose queue is served elsewhere.
type taker struct{ *puppet }

func (taker) TakesQueue(int) bool { return true }

func TestTakenQueueHasNoWorker(t *testing.T) {
	p := newPuppet()
	p.activate = func(_ context.Context, env *virtio.Env) error {
		q := env.Queues[0]
		if r := q.Rings(); !r.Enabled || r.Size != 8 || q.KickFD() == nil {
			return fmt.Errorf("rings %+v", r)
		}
		env.Go("forward", func(ctx context.Context) error {
			<-ctx.Done()
			q.SetNext(5, 5)
			return nil
		})
		return nil
	}
	d := virtiotest.Start(t, taker{p}, virtiotest.Options{})
	d.Queue(0).Kick()
	d.Stop()
	if n := d.Link.Core().Runs(0); n != 0 {
		t.Errorf("worker ran %d times", n)
	}
	s, _ := d.Save()
	if !strings.Contains(string(s.Payload), `"next_avail":5`) {
		t.Errorf("indices were not taken back: %s", s.Payload)
	}
}

func TestCloseClosesTheDeviceOnce(t *testing.T) {
	p := newPuppet()
	d := virtiotest.Start(t, p, virtiotest.Options{})
	if err := errors.Join(d.Link.Close(), d.Link.Close()); err != nil || !p.closed.Load() {
		t.Errorf("Close = %v, closed %v", err, p.closed.Load())
	}
	d.Link.Core().Notify(0) // harmless
	d.Link.Core().SetStatus(0)
}

// TestRegistersFromManyThreads does what several vCPUs may do at once: anything.
// It is for the race detector and for deadlocks.
func TestRegistersFromManyThreads(t *testing.T) {
	for name, link := range map[string]func() virtiotest.Link{"direct": virtiotest.Direct, "mmio": virtiotest.MMIO} {
		t.Run(name, func(t *testing.T) {
			p := newPuppet()
			p.queues = 3
			d := virtiotest.Start(t, sink{p}, virtiotest.Options{Link: link()})
			var wg sync.WaitGroup
			wg.Go(func() {
				for range 300 {
					for _, s := range []virtio.Status{0, 1, 3} {
						d.Link.SetStatus(s)
					}
					d.Link.AcceptFeatures(d.Link.OfferedFeatures())
					d.Link.SetStatus(0xb)
					for q := range gpas {
						d.Link.SetupQueue(q, 8, gpas[q], gpas[q]+0x400, gpas[q]+0x800)
					}
					d.Link.SetStatus(0xf)
				}
			})
			core := d.Link.Core()
			wg.Go(func() {
				for i := range 3000 {
					core.Notify(i % 4)
					core.QueueSize(i % 4)
					core.QueueAddr(i%4, virtio.PartUsed)
					core.DriverFeatures(0)
					core.ReadConfig(make([]byte, 4), 0)
				}
			})
			wg.Go(func() {
				for i := range 200 {
					if i%2 == 0 {
						core.DisableQueue(i % 3)
					}
					_ = core.Stop(t.Context())
					_, _ = core.SaveState()
					if err := core.Start(); err != nil {
						t.Error(err)
					}
					if env := p.env.Load(); env != nil {
						env.ConfigChanged()
						env.Kick(1)
					}
				}
			})
			wg.Wait()
			d.Renew()
		})
	}
}

var gpas = []memory.GPA{0x10000, 0x20000, 0x30000}

func TestGuestCannotFloodTheLog(t *testing.T) {
	var lines atomic.Int64
	log := slog.New(slog.NewTextHandler(writer(func(p []byte) { lines.Add(1) }), nil))
	mem, err := memory.New(memory.Options{Size: 4096})
	if err != nil {
		t.Fatal(err)
	}
	core, err := virtio.NewCore(virtio.CoreOptions{Device: newPuppet(), Mem: mem, Interrupt: nothing{}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		core.SetStatus(0x55)
		core.SetStatus(0)
	}
	if n := lines.Load(); n != 1 {
		t.Errorf("%d log lines for 1000 mistakes", n)
	}
	if n := core.Metrics().GuestErrors.Load(); n != 1000 {
		t.Errorf("%d counted", n)
	}
	if err := errors.Join(core.Close(), mem.Close()); err != nil {
		t.Error(err)
	}
}

type nothing struct{}

func (nothing) Queue(int) error { return nil }
func (nothing) Config() error   { return nil }

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func FuzzLoadState(f *testing.F) {
	f.Add([]byte(`{"status":15,"driver_features":4294967296,"config_generation":1,"queues":[{"size":8,"enabled":true,"desc":4096,"avail":8192,"used":12288,"next_avail":1,"next_used":1}]}`))
	f.Add([]byte(`{"status":64,"driver_features":0,"config_generation":0,"queues":[{"size":0,"enabled":true,"desc":0,"avail":0,"used":0,"next_avail":0,"next_used":0}]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		d := virtiotest.New(t, sink{newPuppet()}, virtiotest.Options{MemBytes: 1 << 20})
		sec := virtiotest.Section(payload, 1)
		if err := state.Load(sec, d.Link); err != nil {
			if !errors.Is(err, virtio.ErrState) && !errors.Is(err, state.ErrCorrupt) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		d.Resume()
		d.Stop()
		d.Resume()
		d.Renew()
		d.Queue(0).Add(virtiotest.In(4))
		d.Queue(0).Kick()
		d.Queue(0).Wait()
	})
}
