package snapshot

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/hvctl/hvctl/internal/bench/record"
)

// Result is what a run of the benchmark found.
type Result struct {
	record.Header
	CPUs    int      `json:"cpus"`
	Filled  int      `json:"filledPercent"`
	Samples []Sample `json:"samples"`
}

// Print writes the median of each figure, with the least and the largest.
func (r *Result) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "mode %s, %d vCPUs, %d %% of memory with content, medians (least to largest)\n", r.Mode, r.CPUs, r.Filled)
	fmt.Fprintln(t, "memory\tn\tsave\tload\tpause\twritten\tmapped restore\tcopied restore\t")
	for _, mib := range r.sizes() {
		of := func(s Sample) bool { return s.MemoryMiB == mib }
		fmt.Fprintf(t, "%d MiB\t%d\t", mib, record.Count(r.Samples, of))
		for _, f := range []func(Sample) int64{
			func(s Sample) int64 { return s.SaveNs }, func(s Sample) int64 { return s.LoadNs },
			func(s Sample) int64 { return s.PauseNs }, func(s Sample) int64 { return s.WriteNs },
			func(s Sample) int64 { return s.MapNs }, func(s Sample) int64 { return s.CopyNs },
		} {
			v := record.Of(r.Samples, of, f)
			fmt.Fprintf(t, "%s (%s to %s)\t", ms(v.Median), ms(v.Min), ms(v.Max))
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

func (r *Result) sizes() (all []int) {
	for _, s := range r.Samples {
		if !slices.Contains(all, s.MemoryMiB) {
			all = append(all, s.MemoryMiB)
		}
	}
	return all
}

func ms(ns int64) string { return fmt.Sprintf("%.2f ms", float64(ns)/1e6) }
