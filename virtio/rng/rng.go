package rng

import (
	"context"
	"crypto/rand"
	"sync/atomic"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
)

// Kind is the entropy device. It has no options.
var Kind = virtio.Kind{
	Name: "rng",
	Help: "entropy from the host",
	New:  func(virtio.Args) (virtio.Device, error) { return New(), nil },
}

const (
	queueSize = 64
	// maxRequest bounds the work that one chain can ask for, in bytes. The
	// device may return less than the driver's buffer holds.
	maxRequest = 64 << 10
)

// Metrics are the counters of the device.
type Metrics struct {
	Bytes atomic.Uint64 `metric:"entropy_bytes_total,bytes"`
}

// Device is the entropy device. It keeps no state.
type Device struct{ metrics Metrics }

// New makes an entropy device.
func New() *Device { return &Device{} }

// Info describes the one queue.
func (d *Device) Info() virtio.Info {
	return virtio.Info{ID: virtio.IDRNG, QueueSizes: []uint16{queueSize}}
}

// Activate has nothing to start.
func (d *Device) Activate(context.Context, *virtio.Env) error { return nil }

// HandleQueue fills every chain with random bytes (§5.4.6.2: at least one).
func (d *Device) HandleQueue(_ context.Context, q *virtio.Queue) error {
	for {
		c, ok, err := q.Pop()
		if !ok || err != nil {
			return err
		}
		if c.Readable.Len() > 0 || c.Writable.Len() == 0 {
			return virtio.GuestErrorf("entropy request with %d readable and %d writable bytes", c.Readable.Len(), c.Writable.Len())
		}
		n := 0
		for _, b := range c.Writable.Buffers() {
			b = b[:min(len(b), maxRequest-n)]
			_, _ = rand.Read(b) // never fails (crypto/rand)
			n += len(b)
		}
		d.metrics.Bytes.Add(uint64(n))
		if err := q.Push(c, uint32(n)); err != nil {
			return err
		}
	}
}

// Reset has nothing to forget.
func (d *Device) Reset() {}

// Metrics returns the device's counters.
func (d *Device) Metrics() any { return &d.metrics }

type stateV1 struct{}

// StateVersion returns 1.
func (d *Device) StateVersion() uint32 { return 1 }

// SaveState returns an empty section.
func (d *Device) SaveState() (any, error) { return stateV1{}, nil }

// LoadState accepts only an empty section.
func (d *Device) LoadState(dec state.Decoder) error { return dec.Into(&stateV1{}) }
