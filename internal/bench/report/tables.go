package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/bench/equiv"
	"github.com/hvctl/hvctl/internal/bench/plot"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

// table is a chapter that is no matter of ratios.
type table struct {
	ID, Title, Lead string
	Verdict         string // of the whole, in words
	Class           string // of the verdict
	Head            []string
	Lines           []tableLine
	Figures         []figure
}

type tableLine struct {
	Class string // of its last cell
	Cells []string
}

// tables are the chapters of facts, controls, density, moves and the machine,
// those that a run has.
func tables(r *result.Result) (out []table) {
	for _, t := range []table{equivalence(r), control(r), reach(r), density(r), moves(r), machine(r)} {
		if len(t.Lines) > 0 {
			out = append(out, t)
		}
	}
	return out
}

// equivalence lists what is not the same everywhere, the worst first.
func equivalence(r *result.Result) table {
	rows := factsOf(r, func(test string) bool { return test != equiv.Reach })
	n := equiv.Count(rows)
	t := table{
		ID: "equivalence", Title: "Equivalence", Class: "good",
		Lead:    "What one image's programs see, print and end with on all targets. Timing and resources may differ; the rest is equal or listed.",
		Verdict: fmt.Sprintf("%d of %d facts are the same on all targets, %d differ as expected, %d must not differ, %d tests failed", n[equiv.Same], len(rows), n[equiv.Expected], n[equiv.Unexpected], n[equiv.Failed]),
		Head:    append(append([]string{"Test", "Fact"}, texts(r.Plan.Targets)...), "Verdict"),
	}
	if n[equiv.Unexpected]+n[equiv.Failed] > 0 {
		t.Class = "bad"
	}
	for _, v := range []equiv.Verdict{equiv.Failed, equiv.Unexpected, equiv.Expected, equiv.Same} {
		for _, row := range rows {
			if row.Verdict != v {
				continue
			}
			l := tableLine{Cells: []string{plot.Text(row.Test), plot.Text(row.Name)}, Class: "flat"}
			for _, target := range r.Plan.Targets {
				l.Cells = append(l.Cells, plot.OneLine(row.Values[target], maxCell))
			}
			words := string(v)
			switch v {
			case equiv.Expected:
				words += ": " + row.Why
			case equiv.Same:
			case equiv.Failed, equiv.Unexpected:
				l.Class = "bad"
				words += ": " + list(slices.Clone(row.Differs))
			}
			t.Lines = append(t.Lines, tableLine{Class: l.Class, Cells: append(l.Cells, words)})
		}
	}
	return t
}

// factsOf are judged facts of some tests.
func factsOf(r *result.Result, want func(test string) bool) []equiv.Row {
	return slices.DeleteFunc(equiv.Judge(r.Facts, r.Plan.Targets), func(row equiv.Row) bool { return !want(row.Test) })
}

// reach lists what the targets get at of their host, what they must not first.
func reach(r *result.Result) table {
	rows := factsOf(r, func(test string) bool { return test == equiv.Reach })
	n := equiv.Count(rows)
	t := table{
		ID: "reach", Title: "What an instance reaches of its host", Class: "good",
		Lead:    "Devices opened, files of the kernel read or opened for writing, processes and values seen, as root. What is the host's needs a reason; a machine has its own.",
		Verdict: fmt.Sprintf("%d of %d things of the host are reached by nobody, %d by those that have a reason, %d by one that must not, %d tests failed", n[equiv.Same], len(rows), n[equiv.Expected], n[equiv.Unexpected], n[equiv.Failed]),
		Head:    append(append([]string{"What"}, texts(r.Plan.Targets)...), "Verdict"),
	}
	if n[equiv.Unexpected]+n[equiv.Failed] > 0 {
		t.Class = "bad"
	}
	for _, v := range []equiv.Verdict{equiv.Failed, equiv.Unexpected, equiv.Expected, equiv.Same} {
		words := map[equiv.Verdict]string{equiv.Failed: "failed", equiv.Unexpected: "must not be reached", equiv.Expected: "has a reason", equiv.Same: "nobody reaches it"}[v]
		for _, row := range rows {
			if row.Verdict != v {
				continue
			}
			l := tableLine{Cells: []string{plot.Text(row.Name)}, Class: "flat"}
			for _, target := range r.Plan.Targets {
				l.Cells = append(l.Cells, plot.OneLine(row.Values[target], maxCell))
			}
			word := words
			switch v {
			case equiv.Expected:
				word += ": " + row.Why
			case equiv.Failed, equiv.Unexpected:
				l.Class = "bad"
				word += ": " + list(slices.Clone(row.Differs))
			case equiv.Same:
			}
			t.Lines = append(t.Lines, tableLine{Class: l.Class, Cells: append(l.Cells, word)})
		}
	}
	return t
}

// maxCell bounds a cell's text.
const maxCell = 24

func texts(names []string) (out []string) {
	for _, n := range names {
		out = append(out, plot.Text(n))
	}
	return out
}

// control lists limits and promises, those that were not kept first.
func control(r *result.Result) table {
	t := table{
		ID: "control", Title: "Resource control", Class: "good",
		Lead: "What was asked for and what was measured. Neighbours are of the same kind as their victim, on the same processor.",
		Head: []string{"Test", "Target", "Asked", "Measured", "Bounds", "How", "Verdict"},
	}
	kept, promised := 0, 0
	add := func(want func(*result.Control) bool, words, class string) {
		for i := range r.Controls {
			c := &r.Controls[i]
			if !want(c) {
				continue
			}
			l := tableLine{Class: class, Cells: []string{plot.Text(c.Test), plot.Text(c.Target), "–", amount(c.Measured, c.Unit), "–", plot.OneLine(c.How, maxCommand), words}}
			if c.Asked != 0 {
				l.Cells[2] = amount(c.Asked, c.Unit)
			}
			if c.Promised() {
				l.Cells[4] = amount(c.Least, c.Unit) + " to " + amount(c.Most, c.Unit)
			}
			if c.Error != "" {
				l.Cells[3], l.Cells[6] = "–", words+": "+plot.OneLine(c.Error, maxCommand)
			}
			t.Lines = append(t.Lines, l)
		}
	}
	add(func(c *result.Control) bool { return c.Error != "" }, "failed", "bad")
	add(func(c *result.Control) bool { return c.Error == "" && !c.Kept() }, "not kept", "bad")
	add(func(c *result.Control) bool { return c.Kept() && !c.Promised() }, "nothing was promised", "open")
	add(func(c *result.Control) bool { return c.Kept() && c.Promised() }, "kept", "good")
	for i := range r.Controls {
		if c := &r.Controls[i]; c.Promised() || c.Error != "" {
			promised++
			if c.Kept() {
				kept++
			}
		}
	}
	t.Verdict = fmt.Sprintf("%d of %d promises were kept", kept, promised)
	if kept < promised {
		t.Class = "bad"
	}
	return t
}

// amount writes a figure with its unit.
func amount(v float64, unit string) string {
	switch unit {
	case "ns":
		return plot.Nanoseconds.Format(v)
	case "B":
		return plot.Bytes.Format(v)
	case "B/s":
		return plot.Bytes.Format(v) + "/s"
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	return strings.TrimSpace(fmt.Sprintf("%.4g %s", v, plot.Text(unit)))
}

// density is what each further instance costs, by a straight line through all.
func density(r *result.Result) table {
	t := table{
		ID: "crowds", Title: "Density", Class: "flat",
		Lead: "Idle instances side by side. The cost of one more is the slope of a straight line: of memory that the host has left, of the proportional set size of all their processes, of what their groups are charged with.",
		Head: []string{"Target", "Instances", "Less left to the host, each", "Proportional, each", "Charged, each", "Ended by"},
	}
	for _, target := range r.Plan.Targets {
		var n, left, pss, group []float64
		end := ""
		for _, c := range r.Density {
			if c.Target != target {
				continue
			}
			end = c.End
			if c.Error != "" {
				end = "failed: " + c.Error
				continue
			}
			n, left, pss, group = append(n, float64(c.N)), append(left, -float64(c.Available)), append(pss, float64(c.PSS)), append(group, float64(c.Cgroup))
		}
		if len(n) == 0 && end == "" {
			continue
		}
		most := 0.0
		if len(n) > 0 {
			most = n[len(n)-1]
		}
		slope := func(y []float64) string { return plot.Bytes.Format(stats.Slope(n, y)) }
		t.Lines = append(t.Lines, tableLine{Class: "flat", Cells: []string{plot.Text(target), fmt.Sprint(most), slope(left), slope(pss), slope(group), plot.OneLine(end, maxCommand)}})
	}
	return t
}

// moves are ways of going on elsewhere, each named for what it is.
func moves(r *result.Result) table {
	t := table{
		ID: "moves", Title: "Migration", Class: "flat",
		Lead: "One program that counts goes on elsewhere on the same host. Live migration keeps it running while memory goes; checkpoint and snapshot stop it first; a restart begins anew. They are not the same thing, and their times are no ratio.",
		Head: []string{"What", "Target", "n", "Total, median", "worst", "Stood still, median", "worst", "Moved", "State"},
	}
	type key struct{ kind, target string }
	var keys []key
	of := map[key][]result.Move{}
	for _, m := range r.Moves {
		if m.Block == 0 && m.Error == "" {
			continue
		}
		k := key{m.Kind, m.Target}
		if of[k] == nil {
			keys = append(keys, k)
		}
		of[k] = append(of[k], m)
	}
	for _, k := range keys {
		var total, still, size []float64
		l := tableLine{Class: "flat"}
		state, failed := "kept", ""
		for _, m := range of[k] {
			if m.Error != "" {
				failed = m.Error
				continue
			}
			total, still, size = append(total, float64(m.TotalNs)), append(still, float64(m.StillNs)), append(size, float64(m.Bytes))
			if !m.Kept {
				state = "lost"
			}
		}
		a, b, s := stats.Summarize(total), stats.Summarize(still), stats.Summarize(size)
		l.Cells = []string{plot.Text(k.kind), plot.Text(k.target), fmt.Sprint(a.N)}
		for _, v := range []float64{a.Median, a.Worst, b.Median, b.Worst} {
			l.Cells = append(l.Cells, plot.Nanoseconds.Format(v))
		}
		l.Cells = append(l.Cells, plot.Bytes.Format(s.Median), state)
		if a.N == 0 {
			l.Cells = []string{l.Cells[0], l.Cells[1], "0", "–", "–", "–", "–", "–", ""}
		}
		if failed != "" {
			l.Class = "bad"
			l.Cells[8] = fmt.Sprintf("%d failed: %s", len(of[k])-a.N, plot.OneLine(failed, maxCommand))
		}
		t.Lines = append(t.Lines, l)
	}
	return t
}

// machine is what else the host did.
func machine(r *result.Result) table {
	t := table{
		ID: "machine", Title: "The machine meanwhile", Class: "flat",
		Lead: "Load, time taken by a hypervisor below, and the share of time in which somebody waited for processor, memory or I/O (PSI), block by block.",
		Head: []string{"Part", "Block", "Took", "Load", "Stolen", "Waited for CPU", "for memory", "for I/O"},
	}
	share := func(v float64) string {
		if !(v >= 0) {
			return "not known"
		}
		return fmt.Sprintf("%.1f %%", 100*v)
	}
	for _, m := range r.Machine {
		t.Lines = append(t.Lines, tableLine{Class: "flat", Cells: []string{
			plot.Text(m.Chapter), fmt.Sprint(m.Block), plot.Nanoseconds.Format(float64(m.TookNs)),
			amount(m.Load, ""), plot.Nanoseconds.Format(float64(m.StealNs)), share(m.CPU), share(m.Memory), share(m.IO),
		}})
	}
	return t
}

// markdown writes a table.
func (t *table) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "## %s\n\n%s\n\n", t.Title, t.Lead)
	if t.Verdict != "" {
		fmt.Fprintf(b, "**%s.**\n\n", t.Verdict)
	}
	row := func(cells []string) {
		for i, c := range cells {
			cells[i] = oneLine(c)
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
	row(slices.Clone(t.Head))
	fmt.Fprintln(b, "|"+strings.Repeat("---|", len(t.Head)))
	for _, l := range t.Lines {
		row(slices.Clone(l.Cells))
	}
	fmt.Fprintln(b)
}
