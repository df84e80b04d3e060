package net

import "sync/atomic"

// Metrics are the counters of the device, seen from the guest: rx is what the
// driver receives.
type Metrics struct {
	RxPackets  atomic.Uint64 `metric:"rx_packets_total,1"`
	RxBytes    atomic.Uint64 `metric:"rx_bytes_total,bytes"`
	RxFiltered atomic.Uint64 `metric:"rx_filtered_total,1"` // not for this guest, or its link is down
	RxDropped  atomic.Uint64 `metric:"rx_dropped_total,1"`  // did not fit into the driver's buffers
	RxDry      atomic.Uint64 `metric:"rx_dry_total,1"`      // times the driver's buffers had run out
	TxPackets  atomic.Uint64 `metric:"tx_packets_total,1"`
	TxBytes    atomic.Uint64 `metric:"tx_bytes_total,bytes"`
	TxBad      atomic.Uint64 `metric:"tx_malformed_total,1"`
	TxDropped  atomic.Uint64 `metric:"tx_dropped_total,1"` // refused by the backend, or the link is down
	Commands   atomic.Uint64 `metric:"ctrl_commands_total,1"`
	CommandErr atomic.Uint64 `metric:"ctrl_errors_total,1"`
}
