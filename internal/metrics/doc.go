// Package metrics names counters. A device or vCPU keeps one struct of
// atomic.Uint64 fields and adds to them directly; registering the struct gives
// each field a name and a unit under which `hvctl stats` shows it.
//
// It imports none of our packages and may be imported by all.
package metrics
