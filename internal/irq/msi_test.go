package irq_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/internal/irq"
	"github.com/hvctl/hvctl/kvm"
)

// kernel is KVM's part: a routing table and irqfds.
type kernel struct {
	recorder
	t      *testing.T
	table  []kvm.IRQRoute
	irqfds map[int]uint32 // eventfd to GSI
	refuse error          // of tables and irqfds
}

func newKernel(t *testing.T) *kernel { return &kernel{t: t, irqfds: map[int]uint32{}} }

func (k *kernel) SetGSIRouting(table []kvm.IRQRoute) error {
	if k.refuse != nil {
		return k.refuse
	}
	if n := len(kvm.DefaultIRQRoutes()); len(table) > kvm.MaxIRQRoutes || !slices.Equal(table[:n], kvm.DefaultIRQRoutes()) {
		k.t.Errorf("a table of %d routes lacks the pins', or is too long", len(table))
	}
	k.table = table
	return nil
}

func (k *kernel) AssignIRQFD(fd int, gsi uint32) error {
	if k.refuse != nil {
		return k.refuse
	}
	if _, ok := k.irqfds[fd]; ok {
		return unix.EBUSY
	}
	k.irqfds[fd] = gsi
	return nil
}

func (k *kernel) DeassignIRQFD(fd int, gsi uint32) error {
	if k.irqfds[fd] != gsi {
		k.t.Errorf("eventfd %d was assigned to GSI %d, not %d", fd, k.irqfds[fd], gsi)
	}
	delete(k.irqfds, fd)
	return nil
}

// added are the routes beside the pins'.
func (k *kernel) added() []kvm.IRQRoute {
	if k.table == nil {
		return nil
	}
	return k.table[len(kvm.DefaultIRQRoutes()):]
}

// leads returns what a signal of ev delivers, 0 for nothing.
func (k *kernel) leads(ev *eventfd.EventFD) (data uint32) {
	gsi, ok := k.irqfds[ev.FD()]
	if !ok {
		return 0
	}
	for _, r := range k.added() {
		if r.GSI == gsi {
			_, data, _ = r.MSI()
			return data
		}
	}
	k.t.Errorf("GSI %d of an irqfd has no route", gsi)
	return 0
}

func newEvent(t *testing.T) *eventfd.EventFD {
	t.Helper()
	e, err := eventfd.New(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const addr = 0xfee00000

func TestBoundEventFDFollowsTheRoute(t *testing.T) {
	k := newKernel(t)
	c := irq.New(k)
	m, a, b := c.NewMSI(), newEvent(t), newEvent(t)
	expect := func(what string, wantA, wantB uint32, routes int) {
		t.Helper()
		if gotA, gotB := k.leads(a), k.leads(b); gotA != wantA || gotB != wantB || len(k.added()) != routes {
			t.Errorf("%s: the eventfds lead to %d and %d, want %d and %d; %d routes, want %d", what, gotA, gotB, wantA, wantB, len(k.added()), routes)
		}
	}
	ok(t, m.Bind(a))
	expect("bound, no message", 0, 0, 0)
	ok(t, m.Route(addr, 1))
	expect("routed", 1, 0, 1)
	ok(t, m.Bind(b))
	expect("two on one vector", 1, 1, 1)
	ok(t, m.Route(addr, 2))
	expect("another message", 2, 2, 1)
	ok(t, m.Mask())
	expect("masked", 0, 0, 1)
	tables := c.Metrics().Tables.Load()
	ok(t, m.Route(addr, 2))
	expect("unmasked", 2, 2, 1)
	if n := c.Metrics().Tables.Load(); n != tables {
		t.Error("the same message made a new table")
	}
	ok(t, m.Unbind(a))
	ok(t, m.Unbind(a))
	expect("one left", 0, 2, 1)
	ok(t, m.Unbind(b))
	expect("none left", 0, 0, 0)
	ok(t, m.Bind(a))
	expect("bound to a live vector", 2, 0, 1)
	ok(t, m.Close())
	expect("closed", 0, 0, 0)
	if len(k.irqfds) != 0 {
		t.Errorf("irqfds left: %v", k.irqfds)
	}
}

// Whatever a guest does to its vectors, there are no more routes than bound
// vectors, and none that outlives its binding.
func TestGuestsCannotUseUpGSIs(t *testing.T) {
	k := newKernel(t)
	c := irq.New(k)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	vectors := make([]*irq.MSI, 8)
	for i := range vectors {
		vectors[i] = c.NewMSI()
	}
	calls := []*eventfd.EventFD{newEvent(t), newEvent(t), newEvent(t)}
	at := []int{0, 0, 0}
	for i, ev := range calls {
		ok(t, vectors[at[i]].Bind(ev))
	}
	for range 5000 {
		v := rnd.IntN(len(vectors))
		switch q := rnd.IntN(len(calls)); rnd.IntN(4) {
		case 0:
			ok(t, vectors[v].Route(addr, 1+rnd.Uint32N(3)))
		case 1:
			ok(t, vectors[v].Mask())
		default: // the queue moves to another vector
			ok(t, vectors[at[q]].Unbind(calls[q]))
			ok(t, vectors[v].Bind(calls[q]))
			at[q] = v
		}
		for _, r := range k.added() {
			if r.GSI < irq.Pins || r.GSI >= irq.Pins+uint32(len(calls)) {
				t.Fatalf("GSI %d with %d bound", r.GSI, len(calls))
			}
		}
		for _, ev := range calls {
			k.leads(ev) // complains of an irqfd without a route
		}
	}
	for _, m := range vectors {
		ok(t, m.Close())
	}
	if len(k.added()) != 0 || len(k.irqfds) != 0 {
		t.Errorf("left: %v, %v", k.added(), k.irqfds)
	}
}

func TestGSIsRunOutAndComeBack(t *testing.T) {
	k := newKernel(t)
	c := irq.New(k)
	ev := newEvent(t)
	var all []*irq.MSI
	for {
		m := c.NewMSI()
		ok(t, m.Route(addr, 1))
		err := m.Bind(ev)
		if errors.Is(err, irq.ErrNoGSI) {
			break
		}
		ok(t, err)
		delete(k.irqfds, ev.FD()) // one eventfd will do for all
		all = append(all, m)
	}
	if len(all) != irq.MaxRoutes {
		t.Errorf("%d interrupts were bound", len(all))
	}
	k.irqfds[ev.FD()] = irq.Pins
	ok(t, all[0].Close())
	ok(t, all[0].Route(addr, 1))
	ok(t, all[0].Bind(ev))
}

func TestWhatKVMRefusesIsSignalled(t *testing.T) {
	k := newKernel(t)
	c := irq.New(k)
	m, ev := c.NewMSI(), newEvent(t)
	ok(t, m.Route(addr, 1))
	ok(t, m.Bind(ev))
	k.refuse = unix.EINVAL
	ok(t, m.Route(addr, 2))
	if k.leads(ev) != 0 {
		t.Error("the old message is still delivered")
	}
	ok(t, m.Signal())
	if want := []string{"0xfee00000=0x2"}; !slices.Equal(k.recorder, want) {
		t.Errorf("signalled %v", k.recorder)
	}
	other := c.NewMSI()
	ok(t, other.Route(addr, 3))
	if err := other.Bind(newEvent(t)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("Bind = %v", err)
	}
	if n := c.Metrics().Refused.Load(); n != 2 {
		t.Errorf("%d refusals counted", n)
	}
	k.refuse = nil
	ok(t, m.Route(addr, 2))
	if k.leads(ev) != 2 {
		t.Error("not taken up again")
	}
	ok(t, m.Close())
	ok(t, other.Close())
	if len(k.added()) != 0 {
		t.Errorf("left: %v", k.added())
	}
}
