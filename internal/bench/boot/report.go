package boot

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Result is a whole measurement, as it is kept under docs/results/.
type Result struct {
	When      time.Time         `json:"when"`
	Mode      string            `json:"mode"` // hw, nested-hw, pvm, tcg, tcg-icount
	Env       map[string]string `json:"env"`
	Kernel    string            `json:"kernel"`
	Image     string            `json:"image"`
	CPUs      int               `json:"cpus"`
	MemoryMiB int               `json:"memoryMiB"`
	Samples   []Sample          `json:"samples"`
}

// Spread is what the good samples of a target say of one figure.
type Spread struct {
	Min, Median, Max int64 // of two middle values the median is the lower one
	N                int   // how many samples; all else is 0 when there is none
}

// Spread looks at f over the good samples of a target.
func (r *Result) Spread(target string, f func(Sample) int64) Spread {
	var v []int64
	for _, s := range r.Samples {
		if s.Target == target && s.Error == "" {
			v = append(v, f(s))
		}
	}
	if len(v) == 0 {
		return Spread{}
	}
	slices.Sort(v)
	return Spread{Min: v[0], Median: v[(len(v)-1)/2], Max: v[len(v)-1], N: len(v)}
}

// Targets returns the targets in order of appearance.
func (r *Result) Targets() []string {
	var t []string
	for _, s := range r.Samples {
		if !slices.Contains(t, s.Target) {
			t = append(t, s.Target)
		}
	}
	return t
}

// span says from what to what, in milliseconds.
func (s Spread) span() string {
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
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%.1f MiB\t%d\t%d\t\n", name, ms(total.Median), total.span(), ms(guest.Median), guest.span(),
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

func (r *Result) failed(target string) (n int) {
	for _, s := range r.Samples {
		if s.Target == target && s.Error != "" {
			n++
		}
	}
	return n
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
