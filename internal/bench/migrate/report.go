package migrate

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/hvctl/hvctl/internal/bench/record"
)

// Result is a whole measurement, as it is kept under docs/results/.
type Result struct {
	record.Header
	Kernel     string   `json:"kernel"`
	CPUs       int      `json:"cpus"`
	MemoryMiB  int      `json:"memoryMiB"`
	FillMiB    int      `json:"fillMiB"`
	SetMiB     int      `json:"setMiB"`
	LinkRate   uint64   `json:"linkBytesPerS"`  // the link's limit
	PlainRate  float64  `json:"plainBytesPerS"` // what a socket carried over it
	DowntimeMs int64    `json:"downtimeMs"`     // asked for
	Samples    []Sample `json:"samples"`
}

// Bound is what no pre-copy over the link can beat that copies filled bytes
// while rate bytes a second of a set are written, in turn from the first to the
// last, until the rest fits into down. A guest that writes faster than the link
// has no such bound: ok is false.
func Bound(filled, set, rate, link float64, down time.Duration) (total time.Duration, ok bool) {
	sec, left := 0.0, filled
	for range 1000 {
		if left/link <= down.Seconds() {
			return time.Duration((sec + left/link) * float64(time.Second)), true
		}
		t := left / link
		sec += t
		next := min(set, rate*t)
		if next >= left {
			return 0, false
		}
		left = next
	}
	return 0, false
}

// spread looks at f over the good samples of a cell.
func (r *Result) spread(target string, load int, f func(Sample) int64) record.Spread {
	return record.Of(r.Samples, func(s Sample) bool { return s.Target == target && s.Load == load && s.Error == "" }, f)
}

// Print writes a row per load and target.
func (r *Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "live migration over %.1f MB/s (a plain socket carries %.1f), execution mode %s: medians, and from the least to the most\n",
		float64(r.LinkRate)/1e6, r.PlainRate/1e6, r.Mode)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "dirtied\ttarget\ttotal s\t\tbound s\tstandstill ms\t\tVMM says ms\tin the guest ms\tMB sent\trounds\tsamples\tfailed\t")
	var cells [][2]any
	for _, s := range r.Samples {
		if c := [2]any{s.Load, s.Target}; !slices.Contains(cells, c) {
			cells = append(cells, c)
		}
	}
	slices.SortStableFunc(cells, func(a, b [2]any) int { return a[0].(int) - b[0].(int) })
	for _, c := range cells {
		r.row(t, c[1].(string), c[0].(int))
	}
	return t.Flush()
}

func (r *Result) row(w io.Writer, target string, load int) {
	failed := record.Count(r.Samples, func(s Sample) bool { return s.Target == target && s.Load == load && s.Error != "" })
	get := func(f func(Sample) int64) int64 { return r.spread(target, load, f).Median }
	total := r.spread(target, load, func(s Sample) int64 { return s.TotalNs })
	still := r.spread(target, load, func(s Sample) int64 { return s.StandstillNs })
	bound := "-"
	filled, rate := get(func(s Sample) int64 { return int64(s.FilledBytes) }), get(func(s Sample) int64 { return int64(s.WrittenRate) })
	if b, ok := Bound(float64(filled), float64(r.SetMiB<<20), float64(rate), r.PlainRate, time.Duration(r.DowntimeMs)*time.Millisecond); ok && total.N > 0 {
		bound = fmt.Sprintf("%.2f", b.Seconds())
	}
	fmt.Fprintf(w, "%d %%\t%s\t%.2f\t%.2f-%.2f\t%s\t%.1f\t%.1f-%.1f\t%.1f\t%.1f\t%.1f\t%d\t%d\t%d\t\n", load, target,
		float64(total.Median)/1e9, float64(total.Min)/1e9, float64(total.Max)/1e9, bound, float64(still.Median)/1e6, float64(still.Min)/1e6, float64(still.Max)/1e6,
		float64(get(func(s Sample) int64 { return s.VMMDowntimeNs }))/1e6, float64(get(func(s Sample) int64 { return s.GuestGapNs }))/1e6,
		float64(get(func(s Sample) int64 { return int64(s.LinkBytes) }))/1e6, get(func(s Sample) int64 { return int64(s.Rounds) }), total.N, failed)
}
