package virtiotest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// patience is how long a wait may take before the test fails.
const patience = 10 * time.Second

// Options says how a Driver is set up. The zero value is a driver that takes
// everything, without a transport.
type Options struct {
	Link      Link            // nil is Direct()
	MemBytes  uint64          // guest RAM; 0 is 16 MiB
	Without   virtio.Features // offered features not to accept
	QueueSize uint16          // smaller queues; 0 takes the device's sizes
	MayFail   bool            // the machine may fail; see Failures
}

// Driver is a guest's driver of one device. It is for one goroutine.
type Driver struct {
	T        testing.TB
	Mem      *memory.Guest
	Link     Link
	Features virtio.Features // accepted
	dev      virtio.Device
	o        Options
	next     memory.GPA // bump allocator
	queues   []*Queue
	closed   bool

	mu       sync.Mutex // guards failures
	failures []error
}

// New opens a link to dev and resets nothing, negotiates nothing. The device is
// closed when the test ends.
func New(t testing.TB, dev virtio.Device, o Options) *Driver {
	t.Helper()
	if o.MemBytes == 0 {
		o.MemBytes = 16 << 20
	}
	mem, err := memory.New(memory.Options{Size: o.MemBytes})
	if err != nil {
		t.Fatal(err)
	}
	d := &Driver{T: t, Mem: mem, o: o, next: 0x1000}
	t.Cleanup(d.finish)
	d.open(dev, o.Link)
	return d
}

// Start is New, then Renew: a device that runs.
func Start(t testing.TB, dev virtio.Device, o Options) *Driver {
	t.Helper()
	d := New(t, dev, o)
	d.Renew()
	return d
}

func (d *Driver) open(dev virtio.Device, l Link) {
	d.T.Helper()
	if l == nil {
		l = Direct()
	}
	if err := l.Open(LinkOptions{Device: dev, Mem: d.Mem, Fail: d.fail}); err != nil {
		d.T.Fatal(err)
	}
	d.dev, d.Link = dev, l
}

func (d *Driver) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failures = append(d.failures, err)
}

// Failures returns what was reported to CoreOptions.Fail so far.
func (d *Driver) Failures() []error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]error(nil), d.failures...)
}

// finish ends the driver; the test's end does it too.
func (d *Driver) finish() {
	if d.closed {
		return
	}
	d.closed = true
	if d.Link != nil {
		if err := d.Link.Close(); err != nil {
			d.T.Errorf("close: %v", err)
		}
	}
	if err := d.Mem.Close(); err != nil {
		d.T.Error(err)
	}
	if f := d.Failures(); len(f) > 0 && !d.o.MayFail {
		d.T.Errorf("the machine failed: %v", f)
	}
}

// Alloc returns n bytes of guest memory at a multiple of align, a power of two.
// They are free again after the next Reset.
func (d *Driver) Alloc(n int, align uint64) memory.GPA {
	d.T.Helper()
	a := memory.GPA((uint64(d.next) + align - 1) &^ (align - 1))
	if uint64(a)+uint64(n) > d.o.MemBytes {
		d.T.Fatalf("test uses more than %d bytes of guest memory", d.o.MemBytes)
	}
	d.next = a + memory.GPA(n)
	return a
}

// Write stores p in guest memory at a.
func (d *Driver) Write(a memory.GPA, p []byte) {
	d.T.Helper()
	if err := d.Mem.WriteAt(p, a); err != nil {
		d.T.Fatal(err)
	}
}

// Read returns n bytes of guest memory at a.
func (d *Driver) Read(a memory.GPA, n int) []byte {
	d.T.Helper()
	p := make([]byte, n)
	if err := d.Mem.ReadAt(p, a); err != nil {
		d.T.Fatal(err)
	}
	return p
}

// Reset writes status 0 and forgets all queues.
func (d *Driver) Reset() {
	d.T.Helper()
	d.Link.SetStatus(0)
	d.Eventually("status 0 after reset", func() bool { return d.Link.Status() == 0 })
	d.queues, d.next = nil, 0x1000
}

// Renew resets and takes every step up to a running device (§3.1.1).
func (d *Driver) Renew() {
	d.T.Helper()
	d.Reset()
	d.Negotiate()
	d.SetupQueues()
	d.DriverOK()
}

// Negotiate takes the steps up to FEATURES_OK, accepting everything offered but
// Options.Without.
func (d *Driver) Negotiate() {
	d.T.Helper()
	d.addStatus(virtio.StatusAcknowledge)
	d.addStatus(virtio.StatusDriver)
	d.Features = d.Link.OfferedFeatures() &^ d.o.Without
	d.Link.AcceptFeatures(d.Features)
	d.addStatus(virtio.StatusFeaturesOK)
}

// SetupQueues makes a ring for every queue of the device and enables it.
func (d *Driver) SetupQueues() {
	d.T.Helper()
	for i := range d.Link.NumQueues() {
		size := d.Link.QueueMax(i)
		if d.o.QueueSize != 0 {
			size = min(size, d.o.QueueSize)
		}
		q := newQueue(d, i, size)
		d.Link.SetupQueue(i, size, q.desc, q.avail, q.used)
		d.queues = append(d.queues, q)
	}
}

// DriverOK sets DRIVER_OK: the device is live.
func (d *Driver) DriverOK() {
	d.T.Helper()
	d.addStatus(virtio.StatusDriverOK)
}

func (d *Driver) addStatus(s virtio.Status) {
	d.T.Helper()
	d.Link.SetStatus(d.Link.Status() | s)
	if got := d.Link.Status(); got&s == 0 || got&virtio.StatusNeedsReset != 0 {
		d.T.Fatalf("status is %#02x after adding %#02x", uint8(got), uint8(s))
	}
}

// Queue returns queue i of a device that was set up.
func (d *Driver) Queue(i int) *Queue {
	d.T.Helper()
	if i >= len(d.queues) {
		d.T.Fatalf("the device has %d queues, no queue %d", len(d.queues), i)
	}
	return d.queues[i]
}

// NumQueues returns how many queues were set up.
func (d *Driver) NumQueues() int { return len(d.queues) }

// Config returns n bytes of device configuration space at off.
func (d *Driver) Config(off uint32, n int) []byte {
	p := make([]byte, n)
	d.Link.ReadConfig(off, p)
	return p
}

// Eventually waits until cond holds.
func (d *Driver) Eventually(what string, cond func() bool) {
	d.T.Helper()
	if !Poll(cond) {
		d.T.Fatalf("%s: not within %v (status %#02x)", what, patience, uint8(d.Link.Status()))
	}
}

// Poll waits until cond holds, ten seconds at most, and returns whether it does.
func Poll(cond func() bool) bool {
	deadline := time.Now().Add(patience)
	for step := time.Microsecond; !cond(); {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(step)
		step = min(2*step, time.Millisecond)
	}
	return true
}

// WaitNeedsReset waits until a mistake has stopped the device.
func (d *Driver) WaitNeedsReset() {
	d.T.Helper()
	d.Eventually("DEVICE_NEEDS_RESET", d.needsReset)
}

func (d *Driver) needsReset() bool { return d.Link.Status()&virtio.StatusNeedsReset != 0 }

// WaitInterrupt waits until queue has had more than seen interrupts.
func (d *Driver) WaitInterrupt(queue int, seen uint64) {
	d.T.Helper()
	d.Eventually(fmt.Sprintf("interrupt of queue %d", queue), func() bool { return d.Link.Interrupts(queue) > seen })
}

// WaitConfigInterrupt waits until there were more than seen of them.
func (d *Driver) WaitConfigInterrupt(seen uint64) {
	d.T.Helper()
	d.Eventually("configuration interrupt", func() bool { return d.Link.ConfigInterrupts() > seen })
}

// Stop pauses the device.
func (d *Driver) Stop() {
	d.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := d.Link.Stop(ctx); err != nil {
		d.T.Fatalf("stop: %v", err)
	}
}

// Resume undoes Stop.
func (d *Driver) Resume() {
	d.T.Helper()
	if err := d.Link.Start(); err != nil {
		d.T.Fatalf("start: %v", err)
	}
}

// Save returns the sections of the transport and of the device. Preconditions:
// stopped.
func (d *Driver) Save() (transport, device state.Section) {
	d.T.Helper()
	var err error
	if transport, err = state.Save("transport", d.Link); err != nil {
		d.T.Fatal(err)
	}
	if device, err = state.Save("device", d.dev); err != nil {
		d.T.Fatal(err)
	}
	return transport, device
}

// Load closes the device at hand and puts dev, behind link, in its place, with
// the state of the sections and stopped. Rings and memory stay as they are.
func (d *Driver) Load(dev func() virtio.Device, link Link, transport, device state.Section) {
	d.T.Helper()
	old := d.Link
	d.Link = nil
	if err := old.Close(); err != nil {
		d.T.Errorf("close: %v", err)
	}
	d.open(dev(), link)
	if err := state.Load(device, d.dev); err != nil {
		d.T.Fatal(err)
	}
	if err := state.Load(transport, d.Link); err != nil {
		d.T.Fatal(err)
	}
}

// Restore moves the running driver over to another device: stop, save, close,
// load, start. link is a new one of the same sort; nil is Direct().
func (d *Driver) Restore(dev func() virtio.Device, link Link) {
	d.T.Helper()
	d.Stop()
	t, s := d.Save()
	d.Load(dev, link, t, s)
	d.Resume()
}
