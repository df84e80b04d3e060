package virtio

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/memory"
)

// CoreOptions is what a transport gives the core.
type CoreOptions struct {
	Device    Device
	Mem       *memory.Guest
	Interrupt Interrupt
	Log       *slog.Logger // nil discards
	// Fail reports that the machine cannot go on: a bug of ours or a panic.
	// Called at most a few times, from any goroutine; may be nil.
	Fail func(error)
	// Activated is called when the driver sets DRIVER_OK, before any worker
	// runs, and after a restore; Deactivated at reset and Close when it was.
	// The transport adds and removes its doorbells there. Either may be nil.
	// Both run under the core's lock and may not call the core, but for
	// Doorbell.
	Activated, Deactivated func()
	// OnReset is called in every reset, after the workers were joined; may be
	// nil. The same rules hold.
	OnReset func()
}

// Core is the part of a virtio device that no transport and no device type
// changes. Its methods are the transport's: they may be called from any vCPU
// thread at any time, and a wrong index is harmless. Reset and pause wait for
// workers; workers never wait for the core, so that cannot deadlock.
type Core struct {
	dev     Device
	info    Info
	mem     *memory.Guest
	irq     Interrupt
	log     *slog.Logger
	fail    func(error)
	opts    CoreOptions
	queues  []*Queue
	metrics Metrics
	limit   limiter

	// status is written under mu, but for the bit NEEDS_RESET, which anybody
	// may add.
	status     atomic.Uint32
	generation atomic.Uint32

	mu      sync.Mutex // guards what follows; taken before cfgMu; held while workers are joined
	driver  Features   // as the driver wrote them
	unknown bool       // the driver wrote a feature bit beyond 63
	active  bool       // Activated was called, Deactivated not yet
	paused  bool
	loaded  bool // LoadState was called, Start not yet
	closed  bool
	run     *run // nil when nothing runs

	cfgMu sync.Mutex // one call into the device's configuration or life at a time
}

// NewCore takes the device over; Close closes it.
func NewCore(o CoreOptions) (*Core, error) {
	c := &Core{dev: o.Device, info: o.Device.Info(), mem: o.Mem, irq: o.Interrupt, opts: o}
	c.log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	c.fail = o.Fail
	if c.fail == nil {
		c.fail = func(error) {}
	}
	if _, ok := o.Device.(ConfigSpace); !ok && c.info.ConfigLen != 0 {
		return nil, fmt.Errorf("virtio device %d claims %d bytes of configuration space it does not serve", c.info.ID, c.info.ConfigLen)
	}
	newKick := eventfd.New
	if _, ok := o.Device.(RingTaker); ok {
		newKick = eventfd.NewUnwatched // until this process serves it (start)
	}
	for i, n := range c.info.QueueSizes {
		if bits.OnesCount16(n) != 1 || n > MaxQueueSize {
			return nil, errors.Join(fmt.Errorf("virtio device %d: queue %d has impossible size %d", c.info.ID, i, n), c.closeFDs())
		}
		ev, err := newKick(fmt.Sprintf("virtio %d queue %d", c.info.ID, i))
		if err != nil {
			return nil, errors.Join(err, c.closeFDs())
		}
		q := &Queue{index: i, max: n, kick: ev, mem: o.Mem, irq: o.Interrupt, metrics: &c.metrics}
		q.reset()
		c.queues = append(c.queues, q)
	}
	return c, nil
}

// Info returns the device's description with the core's features added.
func (c *Core) Info() Info {
	i := c.info
	i.Features |= coreFeatures &^ i.Lacks
	return i
}

// Device returns the device, for its state section.
func (c *Core) Device() Device { return c.dev }

// Metrics returns the core's counters.
func (c *Core) Metrics() *Metrics { return &c.metrics }

// Status returns the device status.
func (c *Core) Status() Status { return Status(c.status.Load()) }

// SetStatus is the driver's write of the status field (§3.1.1). Writing 0
// resets: it returns when every worker has been joined.
func (c *Core) SetStatus(v uint8) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v == 0 {
		c.reset()
		return
	}
	cur := c.Status()
	next, err := cur.To(Status(v))
	if err != nil {
		c.fault(err)
		c.run.halt()
		return
	}
	added := next &^ cur
	if added&StatusFeaturesOK != 0 {
		if err := c.checkFeatures(c.driver); err != nil {
			// §3.1.1 step 6: the driver reads the bit back and gives up.
			c.warn("features refused", err)
			return
		}
	}
	c.status.Or(uint32(added))
	switch {
	case added&StatusFailed != 0:
		c.run.halt() // the driver no longer wants its rings touched
	case added&StatusDriverOK != 0:
		c.activate()
	}
}

// DeviceFeatures returns bits 32*sel to 32*sel+31 of what is offered.
func (c *Core) DeviceFeatures(sel uint32) uint32 { return c.Info().Features.word(sel) }

// DriverFeatures returns the same bits of what the driver wrote.
func (c *Core) DriverFeatures(sel uint32) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.driver.word(sel)
}

// SetDriverFeatures is the driver's write of these bits. After FEATURES_OK it
// changes nothing (§2.2.1).
func (c *Core) SetDriverFeatures(sel, v uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.Status()&StatusFeaturesOK != 0:
	case sel > 1:
		c.unknown = c.unknown || v != 0
	default:
		shift := 32 * sel
		c.driver = c.driver&^(0xffffffff<<shift) | Features(v)<<shift
	}
}

func (f Features) word(sel uint32) uint32 {
	if sel > 1 {
		return 0
	}
	return uint32(f >> (32 * sel))
}

// checkFeatures decides on FEATURES_OK (§2.2.2, §6.1).
func (c *Core) checkFeatures(f Features) error {
	if extra := f &^ c.Info().Features; extra != 0 || c.unknown {
		return GuestErrorf("driver accepts features %#x that were not offered", uint64(extra))
	}
	if !f.Has(FeatureVersion1) {
		return GuestErrorf("driver does not accept VIRTIO_F_VERSION_1")
	}
	if fc, ok := c.dev.(FeatureChecker); ok {
		return fc.CheckFeatures(f)
	}
	return nil
}

// ReadConfig fills p from device configuration space; bytes beyond its end
// stay as they are.
func (c *Core) ReadConfig(p []byte, off uint64) {
	cs, ok := c.dev.(ConfigSpace)
	if !ok || off >= uint64(c.info.ConfigLen) {
		return
	}
	p = p[:min(uint64(len(p)), uint64(c.info.ConfigLen)-off)]
	c.cfgMu.Lock()
	defer c.cfgMu.Unlock()
	cs.ReadConfig(p, uint32(off))
}

// WriteConfig stores p in device configuration space. A write that passes the
// end is dropped.
func (c *Core) WriteConfig(p []byte, off uint64) {
	cs, ok := c.dev.(ConfigSpace)
	if !ok || off > uint64(c.info.ConfigLen) || uint64(len(p)) > uint64(c.info.ConfigLen)-off {
		return
	}
	c.cfgMu.Lock()
	defer c.cfgMu.Unlock()
	cs.WriteConfig(p, uint32(off))
}

// Generation returns the configuration generation (§2.5.2).
func (c *Core) Generation() uint32 { return c.generation.Load() }

// configChanged is Env.ConfigChanged.
func (c *Core) configChanged() {
	c.generation.Add(1)
	if c.Status()&StatusDriverOK != 0 {
		c.interruptConfig()
	}
}

func (c *Core) interruptConfig() {
	c.metrics.ConfigIRQs.Add(1)
	if err := c.irq.Config(); err != nil {
		c.fail(fmt.Errorf("virtio device %d: configuration interrupt: %w", c.info.ID, err))
	}
}

// fault answers a driver's mistake (§2.1.2). It needs no lock; the caller halts
// the run where that is not its own goroutine's end.
func (c *Core) fault(err error) {
	old := Status(c.status.Or(uint32(StatusNeedsReset)))
	if old&StatusNeedsReset != 0 {
		return
	}
	c.metrics.GuestErrors.Add(1)
	c.warn("device needs reset", err)
	if old&StatusDriverOK != 0 {
		c.interruptConfig()
	}
}

// warn logs what a guest can cause, at a bounded rate.
func (c *Core) warn(msg string, err error) {
	if skipped, ok := c.limit.allow(); ok {
		//nolint:sloglint // every caller passes a constant
		c.log.Warn(msg, "dev", c.info.ID, "err", err, "skipped", skipped)
	}
}

// Notify is the doorbell of queue: its worker will call HandleQueue. An index
// out of range is ignored.
func (c *Core) Notify(queue int) {
	if queue < 0 || queue >= len(c.queues) {
		return
	}
	if err := c.queues[queue].kick.Signal(); err != nil {
		c.fail(fmt.Errorf("virtio device %d queue %d: kick: %w", c.info.ID, queue, err))
	}
}

// Doorbell returns the eventfd that Notify signals, or nil when there is no
// such queue. It lives until Close.
func (c *Core) Doorbell(queue int) *eventfd.EventFD {
	if queue < 0 || queue >= len(c.queues) {
		return nil
	}
	return c.queues[queue].kick
}

// Runs returns how many calls of HandleQueue for queue returned no error. Tests
// wait on it.
func (c *Core) Runs(queue int) uint64 { return c.queues[queue].runs.Load() }

// reset is a write of 0 to the status. mu is held.
func (c *Core) reset() {
	c.metrics.Resets.Add(1)
	_ = c.join(context.Background())
	c.deactivate()
	c.cfgMu.Lock()
	c.dev.Reset()
	c.cfgMu.Unlock()
	for _, q := range c.queues {
		q.reset()
	}
	c.driver, c.unknown, c.loaded = 0, false, false
	if c.opts.OnReset != nil {
		c.opts.OnReset()
	}
	c.status.Store(0)
}

// Close ends everything: workers, doorbells, the device. Later calls of any
// method are harmless.
func (c *Core) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	_ = c.join(context.Background())
	c.deactivate()
	c.closed = true
	err := c.closeFDs()
	if cl, ok := c.dev.(io.Closer); ok {
		err = errors.Join(err, cl.Close())
	}
	return err
}

func (c *Core) closeFDs() (err error) {
	for _, q := range c.queues {
		err = errors.Join(err, q.kick.Close())
	}
	return err
}
