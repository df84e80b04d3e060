package virtio

import (
	"context"
	"log/slog"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
)

// Info describes a device; it is constant over the device's life.
type Info struct {
	ID         DeviceID
	Features   Features // the type's own bits; the core adds VERSION_1, INDIRECT_DESC and EVENT_IDX
	Lacks      Features // of the core's bits, those that whoever serves the rings (RingTaker) cannot do
	QueueSizes []uint16 // largest size of each queue, powers of two
	ConfigLen  uint32   // bytes of device configuration space; 0 without ConfigSpace
}

// Device is what a device type implements. The core calls it; nothing else
// does. A device that holds host resources also implements io.Closer, called
// once at the end when nothing runs.
//
// Life: New, LoadState at most once, then any number of rounds of Activate and
// Reset. Activate is called again without a Reset before it when the machine
// is resumed. No call but HandleQueue overlaps another one of these.
type Device interface {
	// Info returns the same value every time.
	Info() Info
	// Activate is called when the driver has set DRIVER_OK (§3.1.1), when the
	// machine is resumed and after a restore: it starts host-side goroutines
	// with env.Go and keeps env, and leaves alone what the driver can see. It
	// runs on a vCPU thread and may not block. ctx ends, and env with it, at
	// pause, reset and the end. An error sets DEVICE_NEEDS_RESET.
	Activate(ctx context.Context, env *Env) error
	// HandleQueue serves q: it Pops until Pop says there is nothing, or until
	// it needs something that is not there yet (then a later Env.Kick calls it
	// again), and Pushes each chain it popped. One goroutine per queue calls
	// it: when Activate has returned, after each doorbell and after each Kick,
	// so it also has to bear being called with nothing to do. It may wait for
	// its host side, but returns as soon as ctx ends (pause, reset, or the
	// driver took this queue back). An error wrapping ErrGuest sets DEVICE_NEEDS_RESET; any other
	// one fails the machine unless ctx has ended.
	HandleQueue(ctx context.Context, q *Queue) error
	// Reset puts the device in the state that New made. Every worker and every
	// goroutine of Env.Go has been joined.
	Reset()
	state.Stateful
}

// ConfigSpace is implemented by devices with configuration space. The core
// checks bounds and calls one of the two at a time, on vCPU threads, at any
// moment of the device's life, also while workers run; what workers share
// needs the device's own lock.
type ConfigSpace interface {
	// ReadConfig fills p with the bytes at off.
	ReadConfig(p []byte, off uint32)
	// WriteConfig stores p at off; writes to read-only fields are ignored.
	WriteConfig(p []byte, off uint32)
}

// FeatureChecker is implemented by devices whose feature bits depend on each
// other. An error makes the device refuse FEATURES_OK (§2.2.2).
type FeatureChecker interface {
	CheckFeatures(f Features) error
}

// RingTaker is implemented by devices that have some queues served elsewhere
// (vhost): the core starts no worker for a queue it takes. Such a device hands
// Queue.Rings and Queue.KickFD over in Activate, gives the other side's call
// eventfds to Env.Forward, and from a goroutine of Env.Go, before that returns,
// takes the rings back with Queue.SetNext. When the driver takes such a queue
// back, the core does as for a pause, and activates the device again without
// the queue.
type RingTaker interface {
	TakesQueue(index int) bool
}

// Drainer is implemented by devices that return from HandleQueue with chains
// popped whose host side is not done yet; such a host side signals Queue.KickFD.
type Drainer interface {
	// DrainQueue waits for what is not done and Pushes it. The queue's worker
	// calls it as its last act, at pause, reset and the end: after that the
	// device touches nothing of the guest's. The wait ends with the host's I/O.
	DrainQueue(q *Queue) error
}

// Metered is implemented by devices with counters; see metrics.Registry.
type Metered interface {
	// Metrics returns a pointer to a struct of counters, always the same.
	Metrics() any
}

// Interrupt is the transport's side of notifications to the driver. Calls may
// come from any goroutine and never block. Errors are ours, not the driver's.
type Interrupt interface {
	Queue(index int) error // used buffer notification (§2.3)
	Config() error         // configuration change notification
}

// Env is what an active device works with. It is valid until the ctx given to
// Activate ends; the functions may be called from any goroutine and do nothing
// after that.
type Env struct {
	Mem      *memory.Guest
	Queues   []*Queue // by index; those the driver did not enable have Enabled false
	Features Features // negotiated, with the core's own bits
	Log      *slog.Logger

	run *run
}

// Go runs fn on a goroutine for a host-side source (tap, socket, terminal). fn
// returns soon after ctx ends: pause, reset and the end of the machine wait
// for it. An error is treated as one from HandleQueue.
func (e *Env) Go(name string, fn func(ctx context.Context) error) { e.run.spawn(name, fn) }

// Kick makes the worker of queue call HandleQueue once more; calls coalesce.
// An index out of range is ignored.
func (e *Env) Kick(queue int) { e.run.core.Notify(queue) }

// ConfigChanged tells the driver that configuration space has changed
// (§2.4.1, §2.3). Call it after the change.
func (e *Env) ConfigChanged() { e.run.core.configChanged() }
