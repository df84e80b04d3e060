package start

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/hvctl/hvctl/internal/bench/record"
)

// Result is a whole measurement, as it is kept under docs/results/.
type Result struct {
	record.Header
	Runtimes []Memory `json:"runtimes"`
	Samples  []Sample `json:"samples"`
}

// Memory is what is measured of a runtime once.
type Memory struct {
	Target  string `json:"target"`
	Version string `json:"version"`
	PeakKiB int64  `json:"peakKiB"` // of run
}

// Spread looks at f over the good samples of a runtime in a scenario.
func (r *Result) Spread(target, scenario string, f func(Sample) int64) record.Spread {
	return record.Of(r.Samples, func(s Sample) bool { return s.Target == target && s.Scenario == scenario && s.Error == "" }, f)
}

func (r *Result) failed(target, scenario string) int {
	return record.Count(r.Samples, func(s Sample) bool { return s.Target == target && s.Scenario == scenario && s.Error != "" })
}

// Targets returns the runtimes in order of appearance.
func (r *Result) Targets() []string {
	return record.Distinct(r.Samples, func(s Sample) string { return s.Target })
}

// Print writes a table for each scenario, then the stages of the four verbs.
func (r *Result) Print(w io.Writer) error {
	for _, sc := range scenarios {
		fmt.Fprintf(w, "%s of /bin/true, execution mode %s\n", sc, r.Mode)
		t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "runtime\tmedian\tleast\tp95\tprocessor\tsamples\tfailed\t")
		for _, name := range r.Targets() {
			total := r.Spread(name, sc, func(s Sample) int64 { return s.TotalNs })
			cpu := r.Spread(name, sc, func(s Sample) int64 { return s.CPUNs })
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t\n", name, ms(total.Median), ms(total.Min), ms(total.P95), ms(cpu.Median), total.N, r.failed(name, sc))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if err := r.printStages(w); err != nil {
		return err
	}
	fmt.Fprintln(w, "memory: peak of run, and of a container that waits to be started")
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	for _, m := range r.Runtimes {
		waiting := r.Spread(m.Target, Lifecycle, func(s Sample) int64 { return s.WaitKiB }).Median
		fmt.Fprintf(t, "%s\t%d KiB\t%d KiB\t\n", m.Target, m.PeakKiB, waiting)
	}
	return t.Flush()
}

func (r *Result) printStages(w io.Writer) error {
	fmt.Fprintf(w, "the parts of %s, medians\n", Lifecycle)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	names := []string{"create", "start", "wait", "delete"}
	fmt.Fprintln(t, "runtime\tcreate\tstart\twait\tdelete\t")
	for _, target := range r.Targets() {
		fmt.Fprintf(t, "%s\t", target)
		for i := range names {
			fmt.Fprintf(t, "%s\t", ms(r.Spread(target, Lifecycle, func(s Sample) int64 {
				if i < len(s.Stages) {
					return s.Stages[i].Ns
				}
				return 0
			}).Median))
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

func ms(ns int64) string { return fmt.Sprintf("%.2f ms", float64(ns)/1e6) }
