package report

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

// rank puts losses before wins.
var rank = map[stats.Verdict]int{stats.NotMeasured: 0, stats.Slower: 1, stats.Inconclusive: 2, stats.Equal: 3, stats.Faster: 4}

// Markdown writes report.md.
func Markdown(w io.Writer, r *result.Result) error {
	var b strings.Builder
	rows := Rows(r)
	fmt.Fprintf(&b, "# %s beside %s\n\n", strings.Join(r.Plan.Targets[1:], ", "), r.Base())
	if r.Emulated() {
		fmt.Fprintf(&b, "**EMULATED (%s): not a performance result.** Times are an emulator's; nothing here is a claim about hardware.\n\n", r.Mode)
	}
	if r.Partial != "" {
		fmt.Fprintf(&b, "**Partial:** %s.\n\n", r.Partial)
	}
	fmt.Fprintf(&b, "Mode %s, %s, %d blocks and a warm-up, seed %d, image %s (%s), %.0f s. Ratios are of cost, above 1 is slower; geometric means with 95 %% intervals. Command:\n\n    %s\n\n",
		r.Mode, r.Started.Format(time.RFC3339), r.Plan.Blocks, r.Seed, r.Image.Ref, r.Image.Digest, r.TookS, r.Command)
	for _, t := range append([]string{r.Plan.Copy}, r.Plan.Targets...) {
		if f := r.Failed(t); len(f) > 0 {
			fmt.Fprintf(&b, "**%s failed** in %d samples, first: %s\n\n", t, len(f), oneLine(f[0].Error))
		}
	}
	verdicts(&b, r, rows)
	var chapters []string
	for _, k := range r.Probes() {
		if !slices.Contains(chapters, k.Chapter) {
			chapters = append(chapters, k.Chapter)
		}
	}
	for _, c := range chapters {
		of := slices.DeleteFunc(slices.Clone(rows), func(row Row) bool { return row.Key.Chapter != c })
		slices.SortStableFunc(of, func(x, y Row) int { return rank[x.Verdict] - rank[y.Verdict] })
		fmt.Fprintf(&b, "## %s\n\n| probe | target | verdict | ratio | 95 %% | δ | %s | median | p95 | worst | CPU/op | exits/op | n | failed | outliers |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n", c, r.Base())
		for _, row := range of {
			e := row.Estimate
			fmt.Fprintf(&b, "| %s | %s | %s | %.3f | %.3f to %.3f | %.1f %% | %s | %s | %s | %s | %s | %s | %d | %d | %d |\n", row.Key.Probe, row.Target, row.Verdict, e.Ratio, e.Low, e.High,
				100*row.Delta, Time(row.Base.Median), Time(row.Value.Median), Time(row.Value.P95), Time(row.Value.Worst), Time(row.CPUPerOpNs), count(row.ExitsPerOp), row.Value.N, row.Failed, row.Wide)
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintln(&b, "## Environment")
	fmt.Fprintln(&b)
	for _, k := range slices.Sorted(maps.Keys(r.Env)) {
		fmt.Fprintf(&b, "- %s: %s\n", k, oneLine(r.Env[k]))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verdicts is the summary: how many probes of a chapter went how.
func verdicts(b *strings.Builder, r *result.Result, rows []Row) {
	words := []stats.Verdict{stats.Slower, stats.Inconclusive, stats.Equal, stats.Faster, stats.NotMeasured}
	fmt.Fprintln(b, "| chapter | target | slower | inconclusive | equal | faster | not measured |\n|---|---|---|---|---|---|---|")
	type cell struct{ chapter, target string }
	var order []cell
	n := map[cell]map[stats.Verdict]int{}
	for _, row := range rows {
		c := cell{row.Key.Chapter, row.Target}
		if n[c] == nil {
			n[c] = map[stats.Verdict]int{}
			order = append(order, c)
		}
		n[c][row.Verdict]++
	}
	for _, c := range order {
		fmt.Fprintf(b, "| %s | %s |", c.chapter, c.target)
		for _, v := range words {
			fmt.Fprintf(b, " %d |", n[c][v])
		}
		fmt.Fprintln(b)
	}
	fmt.Fprintf(b, "\n%s is %s again: what is called different there is noise.\n\n", r.Plan.Copy, r.Base())
}

// Time writes nanoseconds with a unit.
func Time(ns float64) string {
	switch {
	case math.IsNaN(ns):
		return "-"
	case ns >= 1e9:
		return fmt.Sprintf("%.2f s", ns/1e9)
	case ns >= 1e6:
		return fmt.Sprintf("%.2f ms", ns/1e6)
	case ns >= 1e3:
		return fmt.Sprintf("%.2f µs", ns/1e3)
	}
	return fmt.Sprintf("%.1f ns", ns)
}

func count(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf("%.3g", v)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
