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

// Add puts the samples of an earlier measurement before r's and numbers r's on.
// It fails when the two were not made alike.
func (r *Result) Add(earlier *Result) error {
	made := func(r *Result) string {
		return fmt.Sprintf("mode %s, kernel %q, image %q, %d CPUs, %d MiB, %v", r.Mode, r.Kernel, r.Image, r.CPUs, r.MemoryMiB, r.Env)
	}
	if was, is := made(earlier), made(r); was != is {
		return fmt.Errorf("the samples do not belong together: the earlier ones were made with %s, these with %s", was, is)
	}
	count := map[string]int{}
	for _, s := range earlier.Samples {
		count[s.Target]++
	}
	for i := range r.Samples {
		r.Samples[i].Iteration += count[r.Samples[i].Target]
	}
	r.Samples = append(slices.Clone(earlier.Samples), r.Samples...)
	return nil
}

// Median returns the middle value of f over the good samples of a target, and
// how many there are. It is the lower one of the two middle values.
func (r *Result) Median(target string, f func(Sample) int64) (median int64, n int) {
	var v []int64
	for _, s := range r.Samples {
		if s.Target == target && s.Error == "" {
			v = append(v, f(s))
		}
	}
	if len(v) == 0 {
		return 0, 0
	}
	slices.Sort(v)
	return v[(len(v)-1)/2], len(v)
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

// Print writes the medians as a table, then the stages of each target.
func (r *Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "boot to first output, execution mode %s: medians\n", r.Mode)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "target\ttotal\tguest init\tVMM memory\tsamples\tfailed\t")
	for _, name := range r.Targets() {
		total, n := r.Median(name, func(s Sample) int64 { return s.TotalNs })
		guest, _ := r.Median(name, func(s Sample) int64 { return s.InitNs })
		pss, _ := r.Median(name, func(s Sample) int64 { return s.PSSBytes })
		fmt.Fprintf(t, "%s\t%s\t%s\t%.1f MiB\t%d\t%d\t\n", name, ms(total), ms(guest), float64(pss)/(1<<20), n, r.failed(name))
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
		at, _ := r.Median(target, func(s Sample) int64 {
			if k < len(s.Stages) {
				return s.Stages[k].AtNs
			}
			return 0
		})
		fmt.Fprintf(t, "  %s\t%s\t+%s\n", st.Name, ms(at), ms(at-before))
		before = at
	}
	return t.Flush()
}

func ms(ns int64) string { return fmt.Sprintf("%.1f ms", float64(ns)/1e6) }
