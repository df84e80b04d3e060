package device

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/hvctl/hvctl/internal/bench/record"
)

// Result is a whole measurement, as it is kept under docs/results/.
type Result struct {
	record.Header
	Kernel    string   `json:"kernel"`
	Subject   string   `json:"subject"` // what is measured, for people
	Disk      string   `json:"disk,omitempty"`
	MemoryMiB int      `json:"memoryMiB"`
	Samples   []Sample `json:"samples"`
}

// least returns the sample of least time for a test on a target; ok is false
// when there is none.
func (r *Result) least(target, test string) (best Sample, ok bool) {
	for _, s := range r.Samples {
		if s.Target == target && s.Test == test && s.Error == "" && (!ok || s.Ns < best.Ns) {
			best, ok = s, true
		}
	}
	return best, ok
}

// Print writes one table per test: microseconds for each operation, the least
// of all iterations, and the exits of that one.
func (r *Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s, execution mode %s: time of one operation, the least of all iterations, and VM exits that it took\n", r.Subject, r.Mode)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	for _, test := range record.Distinct(r.Samples, func(s Sample) string { return s.Test }) {
		fmt.Fprintf(t, "\n%s\ttime\tMiB/s\tVMM time\tturns\texits\thalts\tI/O\tMMIO\t\n", test)
		for _, target := range record.Distinct(r.Samples, func(s Sample) string { return s.Target }) {
			s, ok := r.least(target, test)
			if !ok {
				continue
			}
			n := float64(s.Ops)
			exits := func(kind string) float64 { return float64(s.Exits[kind]) / n }
			fmt.Fprintf(t, "%s\t%.1f us\t%.0f\t%.1f us\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", target, float64(s.Ns)/n/1e3,
				float64(s.Bytes)*n/(1<<20)/(float64(s.Ns)/1e9), float64(s.CPUNs)/n/1e3, float64(s.Turns)/n,
				exits("exits"), exits("halt_exits"), exits("io_exits"), exits("mmio_exits"))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range r.Samples {
		if s.Error != "" {
			fmt.Fprintf(w, "\n%s, iteration %d failed: %s\n", s.Target, s.Iteration, s.Error)
		}
	}
	return nil
}
