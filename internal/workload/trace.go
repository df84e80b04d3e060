package workload

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Tracer is a Runtime whose exits to the host can be watched.
type Tracer interface {
	// Trace tells fn of the exits that r wants, until r.Limit is reached, fn fails
	// or ctx ends; none of these is an error. ready is called when nothing will be
	// missed any more but what comes faster than fn takes it.
	Trace(ctx context.Context, r TraceRequest, ready func(), fn func(TraceExit) error) error
}

// TraceRequest says which exits are wanted; its zero value wants all.
type TraceRequest struct {
	// Reasons are names as KVM has them: io, mmio, intr, debug and so on. Empty: the
	// reason that Ports or Addresses is of, or all.
	Reasons   []string `json:"reasons,omitempty"`
	VCPUs     []int    `json:"vcpus,omitempty"`
	Ports     *Range   `json:"ports,omitempty"`     // of io
	Addresses *Range   `json:"addresses,omitempty"` // of mmio
	Limit     uint64   `json:"limit,omitempty"`     // 0: none
}

// Range is First to Last, both included.
type Range struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

func (r *Range) has(n uint64) bool { return r == nil || n >= r.First && n <= r.Last }

// Check refuses what can be no exit's.
func (r TraceRequest) Check() error {
	for _, x := range []*Range{r.Ports, r.Addresses} {
		if x != nil && x.First > x.Last {
			return fmt.Errorf("a range from %#x to %#x", x.First, x.Last)
		}
	}
	if r.Ports != nil && r.Ports.Last > 0xffff {
		return fmt.Errorf("port %#x: there are 0 to 0xffff", r.Ports.Last)
	}
	return nil
}

// Wants tells whether an exit of a vCPU, for a reason and at a port or address if
// there is one, is to be told of. It may be called from many goroutines.
func (r *TraceRequest) Wants(vcpu int, reason string, addr uint64) bool {
	switch {
	case len(r.VCPUs) > 0 && !slices.Contains(r.VCPUs, vcpu):
		return false
	case len(r.Reasons) > 0:
		if !slices.Contains(r.Reasons, reason) {
			return false
		}
	case r.Ports != nil || r.Addresses != nil:
		if (reason != "io" || r.Ports == nil) && (reason != "mmio" || r.Addresses == nil) {
			return false
		}
	}
	switch reason {
	case "io":
		return r.Ports.has(addr)
	case "mmio":
		return r.Addresses.has(addr)
	}
	return true
}

// TraceExit is one exit of a vCPU, before it is served.
type TraceExit struct {
	Time   time.Time `json:"time"`
	VCPU   int       `json:"vcpu"`
	Reason string    `json:"reason"`
	// Of accesses to ports and devices: where, how wide in bytes, how many elements
	// of a string instruction, which way, what is written (the first element), and
	// whose it is; empty: nobody's.
	Addr   uint64 `json:"addr,omitempty"`
	Size   int    `json:"size,omitempty"`
	Count  int    `json:"count,omitempty"`
	Write  bool   `json:"write,omitempty"`
	Value  uint64 `json:"value,omitempty"`
	Device string `json:"device,omitempty"`
	// Dropped is how many exits before this one came too fast to be told of.
	Dropped uint64 `json:"dropped,omitempty"`
}
