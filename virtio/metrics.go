package virtio

import "sync/atomic"

// Metrics are the counters the core keeps for every device.
type Metrics struct {
	Activations atomic.Uint64 `metric:"activations_total,1"`
	Resets      atomic.Uint64 `metric:"resets_total,1"`
	GuestErrors atomic.Uint64 `metric:"guest_errors_total,1"`
	Kicks       atomic.Uint64 `metric:"kicks_total,1"`
	Chains      atomic.Uint64 `metric:"chains_total,1"`
	Interrupts  atomic.Uint64 `metric:"interrupts_total,1"`
	Suppressed  atomic.Uint64 `metric:"interrupts_suppressed_total,1"`
	ConfigIRQs  atomic.Uint64 `metric:"config_interrupts_total,1"`
}
