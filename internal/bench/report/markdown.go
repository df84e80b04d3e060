package report

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/bench/plot"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

// Markdown writes report.md.
func Markdown(w io.Writer, r *result.Result) error {
	x, err := newIndex(r)
	if err != nil {
		return err
	}
	var b strings.Builder
	rows := x.rows()
	fmt.Fprintf(&b, "# %s beside %s\n\n", oneLine(strings.Join(r.Plan.Targets[1:], ", ")), oneLine(r.Base()))
	if r.Emulated() {
		fmt.Fprintf(&b, "**EMULATED (%s): not a performance result.** Times are an emulator's; nothing here is a claim about hardware.\n\n", oneLine(r.Mode))
	}
	if r.Partial != "" {
		fmt.Fprintf(&b, "**Partial:** %s.\n\n", oneLine(r.Partial))
	}
	fmt.Fprintf(&b, "Mode %s, %s, %d blocks and a warm-up, seed %d, image %s (%s), %.0f s. Ratios are of cost, above 1 is slower; geometric means with 95 %% intervals. Command:\n\n    %s\n\n",
		oneLine(r.Mode), r.Started.Format(time.RFC3339), r.Plan.Blocks, r.Seed, oneLine(r.Image.Ref), oneLine(r.Image.Digest), r.TookS, plot.OneLine(r.Command, maxCommand))
	for _, t := range append([]string{r.Plan.Copy}, r.Plan.Targets...) {
		if f := x.broken[t]; len(f) > 0 {
			fmt.Fprintf(&b, "**%s failed** in %d samples, first: %s\n\n", oneLine(t), len(f), oneLine(f[0].Error))
		}
	}
	summary(&b, r, rows)
	for _, c := range x.chapters() {
		of := inChapter(rows, c)
		fmt.Fprintf(&b, "## %s\n\n| probe | target | verdict | ratio | 95 %% | δ | %s | median | p95 | worst | CPU/op | exits/op | n | failed | outliers |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n", oneLine(c), oneLine(r.Base()))
		for _, row := range of {
			e := row.Estimate
			fmt.Fprintf(&b, "| %s | %s | %s | %.3f | %.3f to %.3f | %.1f %% | %s | %s | %s | %s | %s | %s | %d | %d | %d |\n", oneLine(row.Key.Probe), oneLine(row.Target), row.Verdict, e.Ratio, e.Low, e.High,
				100*row.Delta, row.shown(row.Base, row.Base.Median), row.shown(row.Value, row.Value.Median), row.shown(row.Value, row.Value.P95), row.shown(row.Value, row.Value.Worst), plot.Nanoseconds.Format(row.CPUPerOpNs), count(row.ExitsPerOp), row.Value.N, row.Failed, row.Wide)
		}
		fmt.Fprintln(&b)
	}
	for _, t := range tables(r) {
		t.markdown(&b)
	}
	fmt.Fprintln(&b, "## Environment")
	fmt.Fprintln(&b)
	for _, k := range slices.Sorted(maps.Keys(r.Env)) {
		fmt.Fprintf(&b, "- %s: %s\n", oneLine(k), oneLine(r.Env[k]))
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// summary says how many probes of a chapter went how.
func summary(b *strings.Builder, r *result.Result, rows []Row) {
	fmt.Fprintln(b, "| chapter | target | slower | inconclusive | equal | faster | not measured |\n|---|---|---|---|---|---|---|")
	for _, t := range tally(rows) {
		fmt.Fprintf(b, "| %s | %s |", oneLine(t.chapter), oneLine(t.target))
		for _, v := range verdicts {
			fmt.Fprintf(b, " %d |", t.count[v])
		}
		fmt.Fprintln(b)
	}
	fmt.Fprintf(b, "\n%s is %s again: what is called different there is noise.\n\n", oneLine(r.Plan.Copy), oneLine(r.Base()))
}

// shown writes a value of a summary, if it is one of anything.
func (row *Row) shown(of stats.Summary, v float64) string {
	if of.N == 0 {
		return "–"
	}
	return row.Unit.Format(v)
}

func count(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	return fmt.Sprintf("%.3g", v)
}

// oneLine makes text of a result into a line that Markdown takes as text.
func oneLine(s string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;", "`", "'").Replace(plot.Text(s))
}
