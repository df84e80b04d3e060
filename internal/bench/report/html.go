package report

import (
	"cmp"
	_ "embed" // the page
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/bench/plot"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

var (
	//go:embed report.html.tmpl
	pageText string
	//go:embed report.css
	pageStyle string
)

var pageTemplate = sync.OnceValue(func() *template.Template { return template.Must(template.New("report").Parse(pageText)) })

// figureWidth is of a phone's screen; a larger one shows figures larger, or
// beside each other.
const figureWidth = 400

// figure is a drawing with what has to be known of it.
type figure struct {
	Name    string
	SVG     template.HTML
	Caption string
	Note    string // mode and number of samples
	Command string // that made the samples
}

type pair struct{ Name, Value string }

// chapterPart is a chapter of the page.
type chapterPart struct {
	ID, Name, Title, Lead string
	Tallies               []tallyPart
	Figures               []figure
	More                  []figure // that are shown when asked for
	Rows                  []rowPart
	Base                  string
}

// tallyPart is a line of the summary.
type tallyPart struct {
	Chapter, ID, Target string
	Copy                bool
	Cells               []tallyCell
	All, Series         int
}

type tallyCell struct {
	N       int
	Class   string
	Verdict string
	Share   string // of the bar, in per cent
}

// rowPart is a line of a chapter's table.
type rowPart struct {
	Probe, Target, Verdict, Class, Ratio, Interval, Delta string
	Base, Median, P95, P99, Worst, CPU, Exits             string
	N, Failed, Wide                                       int
	Copy                                                  bool
}

// page is what the template shows.
type page struct {
	Style                         template.CSS
	Title, Mode, ModeWords, Noise string
	Emulated                      bool
	Partial, Command              string
	Failures, Meta, Env           []pair
	Losses, Wins                  []rowPart
	LossesLeft, WinsLeft          int
	Summary                       [][]tallyPart // by chapter
	Chapters                      []chapterPart
	Tables                        []table
	Lecture                       *lecturePart
	BaseName, CopyName            string
	Key                           []tallyCell
}

// pages makes a page's parts.
type pages struct {
	x       *index
	rows    []Row
	series  map[string]int
	mark    string
	command string
}

// HTML writes report.html: one file that needs nothing else, and has no scripts.
func HTML(w io.Writer, r *result.Result) error {
	x, err := newIndex(r)
	if err != nil {
		return err
	}
	return pageTemplate().Execute(w, newPages(x).page())
}

func newPages(x *index) *pages {
	p := &pages{x: x, rows: x.rows(), series: map[string]int{}, command: plot.OneLine(x.r.Command, maxCommand)}
	for i, t := range x.r.Plan.Targets {
		p.series[t] = i
	}
	if x.r.Emulated() {
		p.mark = watermark
	}
	return p
}

func (p *pages) page() *page {
	r := p.x.r
	out := &page{
		Style: template.CSS(plot.Style + pageStyle), //nolint:gosec // ours
		Title: p.title(), Mode: plot.Text(r.Mode), ModeWords: modeWords[r.Mode],
		Emulated: r.Emulated(), Partial: plot.OneLine(r.Partial, maxCommand), Command: p.command, BaseName: plot.Text(r.Base()), CopyName: plot.Text(r.Plan.Copy),
		Meta: []pair{
			{"Measured", r.Started.UTC().Format("2 January 2006, 15:04 UTC")},
			{"Took", (time.Duration(clamp(r.TookS, 0, 1e9)) * time.Second).String()},
			{"Blocks", fmt.Sprintf("%d, and a warm-up that does not count", r.Plan.Blocks)},
			{"Limits", limits(r.Plan)},
			{"Image", plot.Text(r.Image.Ref)},
		},
	}
	for _, t := range append([]string{r.Plan.Copy}, r.Plan.Targets...) {
		if f := p.x.broken[t]; len(f) > 0 {
			out.Failures = append(out.Failures, pair{plot.Text(t), fmt.Sprintf("%d samples failed, the first in %s: %s", len(f), plot.Text(f[0].Probe), plot.OneLine(f[0].Error, maxCommand))})
		}
	}
	out.Env = []pair{{"image digest", plot.Text(r.Image.Digest)}, {"SHA-256 of the probes", plot.Text(r.Image.Probes)}, {"seed", fmt.Sprint(r.Seed)}, {"processors used", fmt.Sprint(r.Plan.CPUSet)}}
	for _, k := range slices.Sorted(maps.Keys(r.Env)) {
		out.Env = append(out.Env, pair{plot.Text(k), plot.OneLine(r.Env[k], maxCommand)})
	}
	for _, v := range verdicts {
		out.Key = append(out.Key, tallyCell{Class: class(v), Verdict: string(v)})
	}
	ids := map[string]string{}
	for i, c := range p.x.chapters() {
		ids[c] = fmt.Sprintf("chapter-%d", i+1)
	}
	for _, c := range p.x.chapters() {
		of := slices.DeleteFunc(p.tallies(inChapter(p.rows, c), ids), func(t tallyPart) bool { return t.Copy && len(r.Plan.Targets) > 1 })
		if len(of) > 0 {
			slices.SortStableFunc(of, func(a, b tallyPart) int { return cmp.Compare(a.Series, b.Series) })
			out.Summary = append(out.Summary, of)
		}
	}
	out.Noise = p.noise()
	out.Losses, out.LossesLeft = p.extremes(stats.Slower)
	out.Wins, out.WinsLeft = p.extremes(stats.Faster)
	for _, c := range p.x.chapters() {
		if part := p.chapter(c); len(part.Rows) > 0 {
			part.ID = ids[c]
			out.Chapters = append(out.Chapters, part)
		}
	}
	out.Tables = p.drawn(tables(r))
	out.Lecture = p.lecture()
	return out
}

func (p *pages) title() string {
	r := p.x.r
	if len(r.Plan.Targets) == 1 {
		return plot.Text(r.Base()) + " beside itself"
	}
	return list(slices.Clone(r.Plan.Targets[1:])) + " beside " + plot.Text(r.Base())
}

func limits(p result.Plan) string {
	word := "processors"
	if p.CPUs == 1 {
		word = "processor"
	}
	return fmt.Sprintf("%g %s, %d MiB", clamp(p.CPUs, 0, 1e6), word, p.MemoryMB)
}

// maxExtremes is how many losses and wins the page begins with.
const maxExtremes = 12

// extremes are the rows of a verdict, the farthest from 1 first, and how many
// more there are.
func (p *pages) extremes(v stats.Verdict) (out []rowPart, left int) {
	var of []Row
	for _, row := range p.rows {
		if row.Verdict == v && row.Target != p.x.r.Plan.Copy {
			of = append(of, row)
		}
	}
	slices.SortStableFunc(of, func(a, b Row) int {
		switch x, y := math.Abs(math.Log(a.Estimate.Ratio)), math.Abs(math.Log(b.Estimate.Ratio)); {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	for i, row := range of {
		if i == maxExtremes {
			return out, len(of) - i
		}
		out = append(out, p.row(row))
	}
	return out, 0
}

// noise says what the base's copy was called.
func (p *pages) noise() string {
	n, all, widest := 0, 0, 0.0
	for _, row := range p.rows {
		if row.Target == p.x.r.Plan.Copy && row.Estimate.Pairs > 0 {
			all++
			if row.Verdict == stats.Slower || row.Verdict == stats.Faster {
				n++
			}
			widest = max(widest, stats.Noise(row.Estimate))
		}
	}
	if all == 0 {
		return "The base was not measured twice, so nothing is known of the noise."
	}
	s := fmt.Sprintf("%s is %s again: %d of its %d measurements are called different, and that is noise. What each probe's copy shows is its δ, by which a target must differ at least",
		plot.Text(p.x.r.Plan.Copy), plot.Text(p.x.r.Base()), n, all)
	if widest < 1 {
		return s + fmt.Sprintf("; the largest is %.0f %%.", 100*widest)
	}
	return s + "; of some probes it is above 100 %, and nothing can be told of them."
}

func (p *pages) tallies(rows []Row, ids map[string]string) (out []tallyPart) {
	for _, t := range tally(rows) {
		part := tallyPart{Chapter: plot.Text(t.chapter), ID: ids[t.chapter], Target: plot.Text(t.target), Copy: t.target == p.x.r.Plan.Copy, All: t.all, Series: p.series[t.target]}
		if w, ok := chapterWords[t.chapter]; ok {
			part.Chapter = w[0]
		}
		for _, v := range verdicts {
			n := t.count[v]
			part.Cells = append(part.Cells, tallyCell{N: n, Class: class(v), Verdict: string(v), Share: fmt.Sprintf("%.2f", 100*float64(n)/float64(t.all))})
		}
		out = append(out, part)
	}
	return out
}

func (p *pages) row(row Row) rowPart {
	e := row.Estimate
	out := rowPart{
		Probe: plot.Text(row.Key.Probe), Target: plot.Text(row.Target), Verdict: words(row.Verdict, row.Unit), Class: class(row.Verdict),
		Ratio: "–", Interval: "–", Delta: fmt.Sprintf("%.1f %%", 100*clamp(row.Delta, 0, 1e4)), Copy: row.Target == p.x.r.Plan.Copy,
		Base: row.shown(row.Base, row.Base.Median), Median: row.shown(row.Value, row.Value.Median), P95: row.shown(row.Value, row.Value.P95),
		P99: row.shown(row.Value, row.Value.P99), Worst: row.shown(row.Value, row.Value.Worst),
		CPU: plot.Nanoseconds.Format(row.CPUPerOpNs), Exits: count(row.ExitsPerOp), N: row.Value.N, Failed: row.Failed, Wide: row.Wide,
	}
	if e.Pairs > 0 {
		out.Ratio, out.Interval = ratio(e.Ratio), ratio(e.Low)+" to "+ratio(e.High)
	}
	return out
}

// ratio has as many digits as a reader compares.
func ratio(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "∞"
	case v >= 1000:
		return fmt.Sprintf("%.3g", v)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// note is what every figure carries.
func (p *pages) note(n string) string {
	s := "execution mode " + plot.Text(p.x.r.Mode)
	if p.mark != "" {
		s += ", emulated"
	}
	if n != "" {
		s += ", " + n
	}
	return s
}

func (p *pages) targets(names []string) (out []plot.Target) {
	for _, n := range names {
		out = append(out, plot.Target{Name: n, Series: p.series[n]})
	}
	return out
}

func clamp(v, low, high float64) float64 {
	if math.IsNaN(v) {
		return low
	}
	return min(max(v, low), high)
}
