package plot

import (
	"fmt"
	"math"
)

// Line is a target's points, with a straight line through them if it has a
// slope.
type Line struct {
	X, Y             []float64
	Slope, Intercept float64 // NaN: points are joined instead
}

// Points is values over something that grows: blocks of a run, instances.
type Points struct {
	Title, Mark string
	Targets     []Target
	Lines       []Line // for each target
	XName       string
	Unit        Unit
	FromZero    bool
	Width       float64
}

// Draw draws it.
func (p Points) Draw() *Figure {
	const plotHeight, left = 140.0, 62.0
	f := newFigure(p.Width, 200, p.Title, p.Mark)
	top := f.legend(p.Targets, 4, 2) + 4
	bottom := top + plotHeight
	f.height = bottom + 36
	var xs, ys []float64
	if p.FromZero {
		xs, ys = append(xs, 0), append(ys, 0)
	}
	for _, l := range p.Lines {
		xs, ys = append(xs, l.X...), append(ys, l.Y...)
	}
	sx := newScale(false, left, p.Width-14, xs...).widen(0.03)
	sy := newScale(false, bottom, top, ys...).widen(0.06)
	for _, t := range sy.ticksIn(p.Unit, 5) {
		f.line("grid", left, sy.at(t), p.Width-14, sy.at(t))
		f.text("tick", "end", left-6, sy.at(t)+4, p.Unit.tick(t), "")
	}
	f.line("axis", left, bottom, p.Width-14, bottom)
	for _, t := range sx.ticks(8) {
		if t == math.Trunc(t) {
			f.text("tick", "middle", sx.at(t), bottom+15, digitsOf(t), "")
		}
	}
	f.text("tick", "middle", (left+p.Width-14)/2, bottom+30, short(Text(p.XName), 50), "")
	for i, l := range p.Lines {
		if i >= len(p.Targets) {
			break
		}
		n, series := min(len(l.X), len(l.Y), maxPoints), p.Targets[i].Series
		class := fmt.Sprintf("curve s%d", series%Series)
		if !math.IsNaN(l.Slope) && n > 1 {
			a, b := l.X[0], l.X[n-1]
			f.line(class, sx.at(a), sy.at(l.Intercept+l.Slope*a), sx.at(b), sy.at(l.Intercept+l.Slope*b))
		}
		for k := range n {
			if k > 0 && math.IsNaN(l.Slope) {
				f.line(class, sx.at(l.X[k-1]), sy.at(l.Y[k-1]), sx.at(l.X[k]), sy.at(l.Y[k]))
			}
		}
		for k := range n {
			f.dot(series, false, sx.at(l.X[k]), sy.at(l.Y[k]), 3.4, p.Unit.Format(l.Y[k]))
		}
	}
	return f
}

func digitsOf(t float64) string { return fmt.Sprintf("%.0f", t) }
