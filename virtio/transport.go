package virtio

import (
	"context"

	"github.com/hvctl/hvctl/internal/bus"
	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/internal/state"
)

// Transport is what the machine sees of a device with its registers. The
// device's own state is a separate section; load both, in any order, before
// Start.
type Transport interface {
	bus.Handler // registers; any vCPU thread, any time
	state.Stateful
	// Notify does what the driver's doorbell for queue does.
	Notify(queue int)
	// Stop pauses: it joins every worker at a chain boundary. When ctx ends
	// first it returns its error; Stop again or Start then.
	Stop(ctx context.Context) error
	// Start undoes Stop or completes LoadState and serves every queue once.
	Start() error
	// Close stops for good, removes doorbells and closes the device.
	Close() error
}

// Doorbells turns guest writes into eventfd signals without an exit to us
// (KVM_IOEVENTFD in MMIO space). size 0 matches any length; match, when not
// nil, is the value the write must have. An eventfd is kept alive until it is
// removed.
type Doorbells interface {
	Add(addr uint64, size int, match *uint32, ev *eventfd.EventFD) error
	Remove(addr uint64, size int, match *uint32, ev *eventfd.EventFD) error
}
