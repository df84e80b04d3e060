package snapshot

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Result is what a run of the benchmark found.
type Result struct {
	When    time.Time         `json:"when"`
	Mode    string            `json:"mode"` // of execution: hw, nested-hw, pvm, tcg
	Env     map[string]string `json:"env"`
	CPUs    int               `json:"cpus"`
	Filled  int               `json:"filledPercent"`
	Samples []Sample          `json:"samples"`
}

// Print writes the median of each figure, with the least and the largest.
func (r *Result) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "mode %s, %d vCPUs, %d %% of memory with content, medians (least to largest)\n", r.Mode, r.CPUs, r.Filled)
	fmt.Fprintln(t, "memory\tn\tsave\tload\tpause\twritten\tmapped restore\tcopied restore\t")
	for _, mib := range r.sizes() {
		var of []Sample
		for _, s := range r.Samples {
			if s.MemoryMiB == mib {
				of = append(of, s)
			}
		}
		fmt.Fprintf(t, "%d MiB\t%d\t", mib, len(of))
		for _, f := range []func(Sample) int64{
			func(s Sample) int64 { return s.SaveNs }, func(s Sample) int64 { return s.LoadNs },
			func(s Sample) int64 { return s.PauseNs }, func(s Sample) int64 { return s.WriteNs },
			func(s Sample) int64 { return s.MapNs }, func(s Sample) int64 { return s.CopyNs },
		} {
			least, median, most := spread(of, f)
			fmt.Fprintf(t, "%s (%s to %s)\t", ms(median), ms(least), ms(most))
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

func spread(all []Sample, f func(Sample) int64) (least, median, most int64) {
	var v []int64
	for _, s := range all {
		v = append(v, f(s))
	}
	slices.Sort(v)
	if len(v) == 0 {
		return 0, 0, 0
	}
	return v[0], v[len(v)/2], v[len(v)-1]
}

func ms(ns int64) string { return fmt.Sprintf("%.2f ms", float64(ns)/1e6) }
