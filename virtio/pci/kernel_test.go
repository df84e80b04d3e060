package pci_test

import (
	"context"
	"testing"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/rng"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

// taken is a device whose queue is served in the kernel.
type taken struct {
	*rng.Device
	call *eventfd.EventFD
}

func (taken) TakesQueue(int) bool { return true }

func (d taken) Activate(_ context.Context, env *virtio.Env) error {
	env.Forward(0, d.call)
	return nil
}

func newTaken(t *testing.T) taken {
	t.Helper()
	call, err := eventfd.New("call")
	must(t, err)
	t.Cleanup(func() { _ = call.Close() })
	return taken{rng.New(), call}
}

// The kernel raises the vector that the queue has, while it is not masked.
func TestKernelRaisesTheQueuesVector(t *testing.T) {
	dev := newTaken(t)
	r := rigOf(t, dev)
	r.writeEntry(0, 7, false)
	r.writeEntry(1, 8, false)
	r.set(r.msix+2, 2, 0x8000)
	expect := func(what string, want uint32) {
		t.Helper()
		if got, _ := r.msi.Leads(dev.call); got != want {
			t.Errorf("%s: signals lead to %d, want %d", what, got, want)
		}
	}
	expect("before DRIVER_OK", 0)
	r.live() // vector 1
	bound := func() bool { return r.msi.Bound() == 1 }
	if !virtiotest.Poll(bound) {
		t.Fatal("not bound")
	}
	expect("live", 8)
	r.set(window+0x1a, 2, 0)
	expect("vector 0", 7)
	r.set(table+8, 4, 9)
	expect("another message", 9)
	r.set(table+12, 4, 1)
	expect("masked", 0)
	r.set(table+12, 4, 0)
	expect("unmasked", 9)
	r.set(r.msix+2, 2, 0xc000)
	expect("function masked", 0)
	r.set(r.msix+2, 2, 0x8000)
	r.set(window+0x1a, 2, 0xffff)
	expect("NO_VECTOR", 0)
	if r.msi.Bound() != 0 {
		t.Error("bound without a vector")
	}
	r.set(window+0x1a, 2, 1)
	expect("vector 1", 8)
	must(t, r.dev.Stop(t.Context()))
	expect("paused", 0)
	must(t, r.dev.Start())
	if !virtiotest.Poll(bound) {
		t.Fatal("not bound after a pause")
	}
	expect("resumed", 8)
	r.set(window+0x14, 1, 0)
	if r.msi.Bound() != 0 {
		t.Error("bound after a reset")
	}
}

// A signal while the vector is masked is pending, and none is lost.
func TestCallsWhileMaskedArePending(t *testing.T) {
	dev := newTaken(t)
	r := rigOf(t, dev)
	r.writeEntry(1, 8, true)
	r.set(r.msix+2, 2, 0x8000)
	r.live()
	must(t, dev.call.Signal())
	if !virtiotest.Poll(func() bool { return r.get(pba, 8) == 2 }) {
		t.Fatalf("pending bits %#x", r.get(pba, 8))
	}
	if r.msi.Count(8) != 0 {
		t.Error("delivered while masked")
	}
	r.set(table+16+12, 4, 0)
	if r.msi.Count(8) != 1 || r.get(pba, 8) != 0 {
		t.Errorf("unmasked: delivered %d, pending %#x", r.msi.Count(8), r.get(pba, 8))
	}
}
