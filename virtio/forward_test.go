package virtio_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

// forwarder is a device whose queue 0 is served elsewhere.
type forwarder struct {
	*puppet
	call *eventfd.EventFD
	runs chan []bool // which queues were enabled, at each Activate
}

func newForwarder(t *testing.T) *forwarder {
	t.Helper()
	call, err := eventfd.New("call")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = call.Close() })
	f := &forwarder{newPuppet(), call, make(chan []bool, 8)}
	f.queues = 2
	f.activate = func(_ context.Context, env *virtio.Env) error {
		f.runs <- []bool{env.Queues[0].Enabled(), env.Queues[1].Enabled()}
		env.Forward(0, call)
		return nil
	}
	return f
}

func (*forwarder) TakesQueue(i int) bool { return i == 0 }

func (f *forwarder) Info() virtio.Info {
	i := f.puppet.Info()
	i.Lacks = virtio.FeatureEventIdx
	return i
}

func (f *forwarder) signal(t *testing.T) {
	t.Helper()
	if err := f.call.Signal(); err != nil {
		t.Fatal(err)
	}
}

func TestCallsBecomeInterrupts(t *testing.T) {
	f := newForwarder(t)
	d := virtiotest.Start(t, f, virtiotest.Options{})
	for n := range uint64(3) {
		f.signal(t)
		d.WaitInterrupt(0, n)
	}
	d.Stop()
	f.signal(t) // kept
	seen := d.Link.Interrupts(0)
	d.Resume()
	d.WaitInterrupt(0, seen)
	d.Renew()
	seen = d.Link.Interrupts(0)
	f.signal(t)
	d.WaitInterrupt(0, seen)
}

func TestWhatTheOtherSideLacksIsNotOffered(t *testing.T) {
	d := virtiotest.Start(t, newForwarder(t), virtiotest.Options{})
	if f := d.Link.OfferedFeatures(); f.Has(virtio.FeatureEventIdx) || !f.Has(virtio.FeatureVersion1|virtio.FeatureIndirectDesc) {
		t.Errorf("offered %#x", uint64(f))
	}
}

// When the driver takes one queue back, the device goes on with the others.
func TestDisablingATakenQueueActivatesAnew(t *testing.T) {
	f := newForwarder(t)
	d := virtiotest.Start(t, f, virtiotest.Options{})
	expect := func(want []bool) {
		t.Helper()
		select {
		case got := <-f.runs:
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("activated with queues %v, want %v", got, want)
			}
		default:
			t.Errorf("not activated")
		}
	}
	expect([]bool{true, true})
	core := d.Link.Core()
	core.DisableQueue(0)
	expect([]bool{false, true})
	core.DisableQueue(0)
	core.DisableQueue(1)
	if len(f.runs) != 0 {
		t.Error("activated for nothing")
	}
	d.Renew()
	expect([]bool{true, true})
	d.Stop()
	core.DisableQueue(0)
	if len(f.runs) != 0 {
		t.Error("activated while paused")
	}
	d.Resume()
	expect([]bool{false, true})
}

// kernelIRQ is a transport that can have interrupts raised in the kernel.
type kernelIRQ struct {
	mu    sync.Mutex
	bound map[int]*eventfd.EventFD
}

func (*kernelIRQ) Queue(int) error { return nil }
func (*kernelIRQ) Config() error   { return nil }

func (k *kernelIRQ) BindQueue(i int, call *eventfd.EventFD) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bound[i] = call
}

func (k *kernelIRQ) get(i int) *eventfd.EventFD {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bound[i]
}

func TestCallsAreBoundWhileTheDeviceRuns(t *testing.T) {
	f := newForwarder(t)
	mem, err := memory.New(memory.Options{Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	irq := &kernelIRQ{bound: map[int]*eventfd.EventFD{}}
	core, err := virtio.NewCore(virtio.CoreOptions{Device: f, Mem: mem, Interrupt: irq})
	if err != nil {
		t.Fatal(err)
	}
	live := func() {
		for _, s := range []uint8{1, 3} {
			core.SetStatus(s)
		}
		core.SetDriverFeatures(1, uint32(virtio.FeatureVersion1>>32))
		core.SetStatus(0xb)
		core.SetQueueAddr(0, virtio.PartAvail, false, 0x1000)
		core.SetQueueAddr(0, virtio.PartUsed, false, 0x2000)
		core.EnableQueue(0)
		core.SetStatus(0xf)
		if !virtiotest.Poll(func() bool { return irq.get(0) == f.call }) {
			t.Fatal("not bound")
		}
	}
	gone := func(what string) {
		t.Helper()
		if irq.get(0) != nil {
			t.Errorf("bound after %s", what)
		}
	}
	live()
	if err := core.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone("a pause")
	if err := core.Start(); err != nil {
		t.Fatal(err)
	}
	core.SetStatus(0)
	gone("a reset")
	live()
	if err := core.Close(); err != nil {
		t.Fatal(err)
	}
	gone("the end")
}
