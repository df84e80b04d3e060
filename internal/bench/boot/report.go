package boot

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/hvctl/hvctl/internal/bench/record"
)

// Result is a whole measurement, as it is kept under docs/results/.
type Result struct {
	record.Header
	Kernel    string   `json:"kernel"`
	Image     string   `json:"image"`
	CPUs      int      `json:"cpus"`
	MemoryMiB int      `json:"memoryMiB"`
	Samples   []Sample `json:"samples"`
}

// Spread looks at f over the good samples of a target.
func (r *Result) Spread(target string, f func(Sample) int64) record.Spread {
	return record.Of(r.Samples, func(s Sample) bool { return s.Target == target && s.Error == "" }, f)
}

// Targets returns the targets in order of appearance.
func (r *Result) Targets() []string {
	return record.Distinct(r.Samples, func(s Sample) string { return s.Target })
}

// span says from what to what, in milliseconds.
func span(s record.Spread) string {
	return fmt.Sprintf("%.0f-%.0f", float64(s.Min)/1e6, float64(s.Max)/1e6)
}

// Print writes the medians as a table, then the stages of each target.
func (r *Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "boot to first output, execution mode %s: medians, and from the least to the most\n", r.Mode)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "target\ttotal\t\tguest init\t\tVMM memory\tsamples\tfailed\t")
	for _, name := range r.Targets() {
		total := r.Spread(name, func(s Sample) int64 { return s.TotalNs })
		guest := r.Spread(name, func(s Sample) int64 { return s.InitNs })
		pss := r.Spread(name, func(s Sample) int64 { return s.PSSBytes })
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%.1f MiB\t%d\t%d\t\n", name, ms(total.Median), span(total), ms(guest.Median), span(guest),
			float64(pss.Median)/(1<<20), total.N, r.failed(name))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, name := range r.Targets() {
		if err := r.printStages(w, name); err != nil {
			return err
		}
	}
	return nil
}

func (r *Result) failed(target string) int {
	return record.Count(r.Samples, func(s Sample) bool { return s.Target == target && s.Error != "" })
}

func (r *Result) printStages(w io.Writer, target string) error {
	i := slices.IndexFunc(r.Samples, func(s Sample) bool { return s.Target == target && s.Error == "" })
	if i < 0 {
		return nil
	}
	fmt.Fprintf(w, "\n%s: when each stage was reached\n", target)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	var before int64
	for k, st := range r.Samples[i].Stages {
		at := r.Spread(target, func(s Sample) int64 {
			if k < len(s.Stages) {
				return s.Stages[k].AtNs
			}
			return 0
		}).Median
		fmt.Fprintf(t, "  %s\t%s\t+%s\n", st.Name, ms(at), ms(at-before))
		before = at
	}
	return t.Flush()
}

func ms(ns int64) string { return fmt.Sprintf("%.1f ms", float64(ns)/1e6) }
