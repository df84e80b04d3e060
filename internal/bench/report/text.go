package report

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/hvctl/hvctl/internal/bench/plot"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

// shownExtremes is how many losses and wins a terminal shows.
const shownExtremes = 5

// Text writes a run's summary for a terminal: verdicts by chapter, then the
// largest losses, then the largest wins.
func Text(w io.Writer, r *result.Result) error {
	x, err := newIndex(r)
	if err != nil {
		return err
	}
	p := newPages(x)
	fmt.Fprintf(w, "%s, execution mode %s, %d blocks\n", p.title(), plot.Text(r.Mode), r.Plan.Blocks)
	if r.Emulated() {
		fmt.Fprintln(w, "EMULATED: no claim about hardware")
	}
	if r.Partial != "" {
		fmt.Fprintf(w, "partial: %s\n", plot.OneLine(r.Partial, maxCommand))
	}
	for _, t := range append([]string{r.Plan.Copy}, r.Plan.Targets...) {
		if f := x.broken[t]; len(f) > 0 {
			fmt.Fprintf(w, "%s failed in %d samples, first: %s\n", plot.Text(t), len(f), plot.OneLine(f[0].Error, maxCommand))
		}
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "chapter\ttarget\tslower\tinconclusive\tequal\tfaster\tnot measured\t")
	for _, line := range tally(p.rows) {
		if line.target == r.Plan.Copy && len(r.Plan.Targets) > 1 {
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t", plot.Text(line.chapter), plot.Text(line.target))
		for _, v := range verdicts {
			if n := line.count[v]; n > 0 {
				fmt.Fprintf(t, "%d\t", n)
			} else {
				fmt.Fprint(t, "·\t")
			}
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, table := range tables(r) {
		if table.Verdict != "" {
			fmt.Fprintf(w, "%s: %s\n", table.Title, table.Verdict)
		}
	}
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range []stats.Verdict{stats.Slower, stats.Faster} {
		rows, left := p.extremes(v)
		for i, row := range rows {
			if i == shownExtremes {
				left += len(rows) - i
				break
			}
			fmt.Fprintf(t, "%s\t%s %s\t%s×\t(%s)\t%s beside %s\n", row.Verdict, row.Target, row.Probe, row.Ratio, row.Interval, row.Median, row.Base)
		}
		if left > 0 {
			fmt.Fprintf(t, "\t… and %d more\n", left)
		}
	}
	return t.Flush()
}
