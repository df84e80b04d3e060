package mem

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// Feature bits (§5.15.3). ACPI_PXM is not offered: there are no NUMA nodes.
const featInaccessible virtio.Features = 1 << 1

// queueSize is that of the one queue; a driver waits for each answer.
const queueSize = 64

// struct virtio_mem_config (§5.15.4).
const (
	cfgBlock     = 0
	cfgAddr      = 16 // node_id before it stays 0
	cfgSize      = 24
	cfgUsable    = 32
	cfgPlugged   = 40
	cfgRequested = 48
	configLen    = 56
)

// ErrRequest is wrapped when a region cannot be of the size that is asked for.
var ErrRequest = errors.New("not a size of this region")

// Metrics are the counters of the device. Those without _total are the state of now.
type Metrics struct {
	Plugged   atomic.Uint64 `metric:"plugged_bytes,bytes"`
	Requested atomic.Uint64 `metric:"requested_bytes,bytes"`
	Region    atomic.Uint64 `metric:"region_bytes,bytes"`
	Refused   atomic.Uint64 `metric:"refused_requests_total,1"` // the driver's mistakes, and more than it was to have
	Busy      atomic.Uint64 `metric:"busy_requests_total,1"`    // the host's failures; the driver tries again
}

// Device is the memory device. Besides the core, any goroutine may call Request,
// State and Metrics.
type Device struct {
	memory  *memory.Pluggable
	metrics Metrics

	mu        sync.Mutex // guards what follows, and is held while blocks change
	env       *virtio.Env
	requested uint64        // bytes
	changed   chan struct{} // closed when something of State has changed
}

// New makes a device for a region, which outlives it.
func New(m *memory.Pluggable) *Device {
	d := &Device{memory: m, changed: make(chan struct{})}
	d.metrics.Region.Store(m.Span().Size)
	return d
}

// Info describes the device.
func (d *Device) Info() virtio.Info {
	return virtio.Info{ID: virtio.IDMem, Features: featInaccessible, ConfigLen: configLen, QueueSizes: []uint16{queueSize}}
}

// CheckFeatures refuses a driver that takes memory that it lacks for readable
// (§5.15.6.2 lets us).
func (d *Device) CheckFeatures(f virtio.Features) error {
	if !f.Has(featInaccessible) {
		return virtio.GuestErrorf("a driver of virtio-mem without UNPLUGGED_INACCESSIBLE")
	}
	return nil
}

// Activate keeps env.
func (d *Device) Activate(_ context.Context, env *virtio.Env) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.env = env
	d.tell()
	return nil
}

// Reset forgets the driver. What is plugged in stays.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.env = nil
	d.tell()
}

// tell wakes those who wait for a change. mu is held.
func (d *Device) tell() {
	d.metrics.Plugged.Store(d.memory.Plugged())
	d.metrics.Requested.Store(d.requested)
	close(d.changed)
	d.changed = make(chan struct{})
}

// State is what a device is doing.
type State struct {
	Plugged, Requested uint64          // bytes
	Driven             bool            // a driver has taken it
	Changed            <-chan struct{} // closed when one of these has changed
}

// State returns what the device is doing now.
func (d *Device) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return State{d.memory.Plugged(), d.requested, d.env != nil, d.changed}
}

// Request asks the driver to have that many bytes of the region, a multiple of the
// block size; errors wrap ErrRequest. It returns before the driver has them.
func (d *Device) Request(bytes uint64) error {
	span := d.memory.Span()
	if bytes > span.Size || bytes%d.memory.BlockSize() != 0 {
		return fmt.Errorf("%w: %d bytes of %d, in blocks of %d", ErrRequest, bytes, span.Size, d.memory.BlockSize())
	}
	d.mu.Lock()
	d.set(bytes)
	d.mu.Unlock()
	return nil
}

// Settle makes what the driver has what it is asked for, and returns how much that is,
// in bytes: it is not to try any further.
func (d *Device) Settle() (plugged uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	plugged = d.memory.Plugged()
	d.set(plugged)
	return plugged
}

// set changes what is requested. mu is held.
func (d *Device) set(bytes uint64) {
	if d.requested == bytes {
		return
	}
	d.requested = bytes
	d.tell()
	if d.env != nil {
		d.env.ConfigChanged()
	}
}

// ReadConfig fills p with the bytes at off.
func (d *Device) ReadConfig(p []byte, off uint32) {
	s, span := d.State(), d.memory.Span()
	var c [configLen]byte
	le := binary.LittleEndian
	le.PutUint64(c[cfgBlock:], d.memory.BlockSize())
	le.PutUint64(c[cfgAddr:], uint64(span.GPA))
	le.PutUint64(c[cfgSize:], span.Size)
	le.PutUint64(c[cfgUsable:], span.Size)
	le.PutUint64(c[cfgPlugged:], s.Plugged)
	le.PutUint64(c[cfgRequested:], s.Requested)
	copy(p, c[off:])
}

// WriteConfig does nothing: all fields are read-only.
func (d *Device) WriteConfig([]byte, uint32) {}

// Metrics returns the device's counters.
func (d *Device) Metrics() any { return &d.metrics }
