package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/bench/plot"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

// drawn gives tables the figures that show them.
func (p *pages) drawn(all []table) []table {
	for i := range all {
		switch all[i].ID {
		case "crowds":
			all[i].Figures = p.crowds()
		case "moves":
			all[i].Figures = p.moved()
		case "control":
			all[i].Figures = p.shares()
		}
	}
	return all
}

// crowds are the memory that instances cost together, and the straight line
// whose slope is the cost of one more.
func (p *pages) crowds() (out []figure) {
	for _, of := range []struct {
		name, caption string
		value         func(result.Crowd) float64
	}{
		{"Memory that the host has less", "MemAvailable with no instance, less MemAvailable with so many.", func(c result.Crowd) float64 { return -float64(c.Available) }},
		{"Proportional set size", "Of all processes of the instances together.", func(c result.Crowd) float64 { return float64(c.PSS) }},
	} {
		d := plot.Points{Title: of.name, Mark: p.mark, XName: "instances", Unit: plot.Bytes, FromZero: true, Width: figureWidth}
		var slopes []string
		for _, t := range p.targets(p.x.r.Plan.Targets) {
			l := plot.Line{}
			for _, c := range p.x.r.Density {
				if c.Target == t.Name && c.Error == "" {
					l.X, l.Y = append(l.X, float64(c.N)), append(l.Y, of.value(c))
				}
			}
			if len(l.X) < 2 {
				continue
			}
			// What there was without any is where the line meets none.
			l.Slope = stats.Slope(l.X, l.Y)
			none := mean(l.Y) - l.Slope*mean(l.X)
			for i := range l.Y {
				l.Y[i] -= none
			}
			d.Targets, d.Lines = append(d.Targets, t), append(d.Lines, l)
			slopes = append(slopes, plot.Text(t.Name)+" "+plot.Bytes.Format(l.Slope))
		}
		if len(d.Lines) > 0 {
			out = append(out, p.figure(of.name, d.Draw(), of.caption+" The slope is the cost of one more: "+strings.Join(slopes, ", ")+".", ""))
		}
	}
	return out
}

func mean(v []float64) float64 {
	s := 0.0
	for _, x := range v {
		s += x / float64(len(v))
	}
	return s
}

// moved is how long moves took, and for how long programs stood still.
func (p *pages) moved() []figure {
	d := plot.Strip{Title: "Moves", Mark: p.mark, Unit: plot.Nanoseconds, Width: figureWidth, Targets: []plot.Target{{Name: "total", Series: 0}, {Name: "stood still", Series: 2}}}
	at := map[string]int{}
	n := 0
	for _, m := range p.x.r.Moves {
		if m.Error != "" {
			continue
		}
		name := m.Kind + " · " + m.Target
		i, ok := at[name]
		if !ok {
			i = len(d.Rows)
			at[name] = i
			d.Rows = append(d.Rows, plot.Row{Name: name})
		}
		d.Rows[i].Marks = append(d.Rows[i].Marks, plot.Mark{Series: 0, Value: float64(m.TotalNs)}, plot.Mark{Series: 2, Value: float64(m.StillNs)})
		n++
	}
	if n == 0 {
		return nil
	}
	return []figure{p.figure("How long it took", d.Draw(), "Every move, on a logarithmic scale. They are not the same thing: what is above and below each other is no comparison of one.", fmt.Sprintf("%d moves", n))}
}

// shares is what was measured of each promise, over what was asked for.
func (p *pages) shares() []figure {
	f := plot.Forest{Title: "Measured over asked for", Mark: p.mark, Width: figureWidth}
	at := map[string]int{}
	n := 0
	for i := range p.x.r.Controls {
		c := &p.x.r.Controls[i]
		series := slices.Index(p.x.r.Plan.Targets, c.Target)
		if c.Error != "" || !c.Promised() || series < 0 || !(c.Asked > 0) || !(c.Measured > 0) || math.IsInf(c.Measured/c.Asked, 0) {
			continue
		}
		k, ok := at[c.Test]
		if !ok {
			k = len(f.Groups)
			at[c.Test] = k
			f.Groups = append(f.Groups, plot.Group{Name: c.Test, Delta: max(c.Most/c.Asked-1, 1-c.Least/c.Asked)})
		}
		t := plot.Target{Name: c.Target, Series: series}
		if !slices.Contains(f.Targets, t) {
			f.Targets = append(f.Targets, t)
		}
		v := c.Measured / c.Asked
		words, class := "kept", "flat"
		if !c.Kept() {
			words, class = "not kept", "bad"
		}
		f.Groups[k].Intervals = append(f.Groups[k].Intervals, plot.Interval{Target: t, Ratio: v, Low: v, High: v, Verdict: words, Class: class})
		n++
	}
	if n == 0 {
		return nil
	}
	f.Less, f.More = "less", "more"
	return []figure{p.figure("Measured over asked for", f.Draw(), "The grey band is what keeps the promise.", fmt.Sprintf("%d figures", n))}
}
