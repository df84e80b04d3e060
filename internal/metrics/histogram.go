package metrics

import (
	"cmp"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"
)

// Buckets is how many a Histogram has: bucket i counts what took less than 2^i
// microseconds and not less than half of that; the last one takes the rest.
const Buckets = 24

// Histogram counts durations, in buckets of powers of two. The zero value is
// ready; one goroutine or many may add to it.
type Histogram struct {
	counts [Buckets]atomic.Uint64
	sum    atomic.Uint64 // nanoseconds
}

// Observe counts d.
func (h *Histogram) Observe(d time.Duration) {
	ns := uint64(max(d, 0))
	h.counts[min(bits.Len64(ns/1000), Buckets-1)].Add(1)
	h.sum.Add(ns)
}

// Distribution is a Histogram at one moment.
type Distribution struct {
	Name   string   // "disk0.read_latency"
	Counts []uint64 // by bucket
	SumNs  uint64
}

// Distributions returns all histograms that have counted something, sorted by
// name.
func (r *Registry) Distributions() []Distribution {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Distribution
	for _, h := range r.histograms {
		d := Distribution{Name: h.name, Counts: make([]uint64, Buckets), SumNs: h.h.sum.Load()}
		some := uint64(0)
		for i := range d.Counts {
			d.Counts[i] = h.h.counts[i].Load()
			some |= d.Counts[i]
		}
		if some != 0 {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b Distribution) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
