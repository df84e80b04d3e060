package report

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"

	"github.com/hvctl/hvctl/internal/bench/plot"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

// openFrom is how many rows of a chapter leave room beside them for a second
// distribution that is always shown.
const openFrom = 20

// chapter makes a chapter of the page.
func (p *pages) chapter(name string) chapterPart {
	rows := inChapter(p.rows, name)
	out := chapterPart{Name: plot.Text(name), Title: plot.Text(name), Base: plot.Text(p.x.r.Base())}
	if w, ok := chapterWords[name]; ok {
		out.Title, out.Lead = w[0], w[1]
	}
	out.Tallies = p.tallies(rows, nil)
	for _, row := range rows {
		out.Rows = append(out.Rows, p.row(row))
	}
	if len(p.x.r.Plan.Targets) > 1 && len(rows) > 0 {
		f := Forest(rows, p.x.r, out.Title, figureWidth)
		out.Figures = append(out.Figures, p.figure("", f.Draw(),
			"Cost beside "+out.Base+": geometric mean of the ratios with its 95 % interval, losses first. The grey band is δ, the difference that is none. Hollow marks: nothing can be told.", p.blocks()))
	}
	if name == lifecycle {
		if s, ok := p.stages(); ok {
			out.Figures = append(out.Figures, p.figure("From nothing to nothing", s.Draw(), "Median of each stage: create until it could be started, start until its first process existed, first until its first byte of output was read; end and delete after the probes were done.", p.blocks()))
		}
		out.Figures = append(out.Figures, p.drift(result.Key{Chapter: name, Probe: "total"}))
	}
	shown := map[result.Key]bool{}
	for _, row := range rows { // losses first
		if shown[row.Key] {
			continue
		}
		shown[row.Key] = true
		d, n := p.distribution(row.Key)
		f := p.figure(row.Key.Probe, d.Draw(), "Share of instances that took at most so much. The hollow mark is the median.", fmt.Sprintf("%d instances", n))
		switch {
		case n == 0:
		case len(shown) == 1 || len(shown) == 2 && len(rows) > openFrom:
			out.Figures = append(out.Figures, f)
		default:
			out.More = append(out.More, f)
		}
	}
	out.Figures = slices.DeleteFunc(out.Figures, func(f figure) bool { return f.SVG == "" })
	return out
}

func (p *pages) figure(name string, f *plot.Figure, caption, n string) figure {
	return figure{Name: plot.Text(name), SVG: template.HTML(f.Inline()), Caption: caption, Note: p.note(n), Command: p.command} //nolint:gosec // package plot escapes
}

func (p *pages) blocks() string { return fmt.Sprintf("n = %d", p.x.r.Plan.Blocks) }

// Forest is rows as ratios with their intervals: the base's copy is in the
// bands, and not among them.
func Forest(rows []Row, r *result.Result, title string, width float64) plot.Forest {
	f := plot.Forest{Title: title + ": cost beside " + r.Base(), Width: width}
	if r.Emulated() {
		f.Mark = watermark
	}
	at := map[result.Key]int{}
	for _, row := range rows {
		i := slices.Index(r.Plan.Targets, row.Target)
		if i < 1 {
			continue
		}
		t := plot.Target{Name: row.Target, Series: i}
		if !slices.Contains(f.Targets, t) {
			f.Targets = append(f.Targets, t)
		}
		n, ok := at[row.Key]
		if !ok {
			n = len(f.Groups)
			at[row.Key] = n
			f.Groups = append(f.Groups, plot.Group{Name: row.Key.Probe, Delta: row.Delta})
		}
		e := row.Estimate
		f.Groups[n].Intervals = append(f.Groups[n].Intervals, plot.Interval{
			Target: t, Ratio: e.Ratio, Low: e.Low, High: e.High, Verdict: words(row.Verdict, row.Unit), Class: class(row.Verdict),
			Open: row.Verdict == stats.Inconclusive || row.Verdict == stats.NotMeasured,
		})
	}
	byColour := func(a, b plot.Target) int { return cmp.Compare(a.Series, b.Series) }
	slices.SortFunc(f.Targets, byColour)
	for _, g := range f.Groups {
		slices.SortFunc(g.Intervals, func(a, b plot.Interval) int { return byColour(a.Target, b.Target) })
	}
	return f
}

// distribution is a probe's values in all instances, and how many there are.
func (p *pages) distribution(k result.Key) (plot.Distribution, int) {
	d := plot.Distribution{Title: "Distribution of " + k.Probe, Mark: p.mark, Unit: plotUnit(p.x.unit(k)), Width: figureWidth, Targets: p.targets(p.x.r.Plan.Targets)}
	all := 0
	for _, t := range p.x.r.Plan.Targets {
		v := values(p.x.of(k, t))
		d.Values = append(d.Values, v)
		all += len(v)
	}
	return d, all
}

// lifecycle is the chapter of an instance's life from outside.
const lifecycle = "lifecycle"

// lifecycleStages follow each other.
var lifecycleStages = []string{"create", "start", "first", "end", "delete"}

// stages is a timeline of an instance's life on each target, if there is any.
func (p *pages) stages() (plot.Stages, bool) {
	s := plot.Stages{Title: "An instance's life, stage by stage", Mark: p.mark, Names: lifecycleStages, Unit: plot.Nanoseconds, Width: figureWidth}
	for _, t := range p.x.r.Plan.Targets {
		b := plot.Bar{Name: t}
		n := 0
		for _, st := range lifecycleStages {
			v := values(p.x.of(result.Key{Chapter: lifecycle, Probe: st}, t))
			n += len(v)
			b.Parts = append(b.Parts, stats.Summarize(v).Median)
		}
		if n > 0 {
			s.Bars = append(s.Bars, b)
		}
	}
	return s, len(s.Bars) > 0
}

// drift is a probe's values along the run.
func (p *pages) drift(k result.Key) figure {
	d := plot.Points{Title: k.Probe + " along the run", Mark: p.mark, XName: "block", Unit: plotUnit(p.x.unit(k)), Width: figureWidth, FromZero: true}
	for i, t := range p.x.r.Plan.Targets {
		l := plot.Line{Slope: math.NaN()}
		for _, s := range p.x.of(k, t) {
			l.X, l.Y = append(l.X, float64(s.Block)), append(l.Y, s.Value)
		}
		if len(l.X) > 0 {
			d.Targets, d.Lines = append(d.Targets, plot.Target{Name: t, Series: i}), append(d.Lines, l)
		}
	}
	if len(d.Lines) == 0 {
		return figure{}
	}
	return p.figure(k.Probe+" along the run", d.Draw(), "The value of each block in order: a slope would mean that the machine changed while it was measured.", p.blocks())
}
