package plot

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// maxPoints bounds what one curve is made of.
const maxPoints = 400

// Distribution is the empirical distribution function of values on each target.
type Distribution struct {
	Title, Mark string
	Targets     []Target
	Values      [][]float64 // for each target
	Unit        Unit
	Width       float64
}

// Draw draws it. The scale is logarithmic when the values need it.
func (p Distribution) Draw() *Figure {
	var all []float64
	curves := make([][]float64, len(p.Values))
	for i, v := range p.Values {
		curves[i] = finite(v)
		all = append(all, curves[i]...)
	}
	const plotHeight, left = 120.0, 40.0
	f := newFigure(p.Width, 200, p.Title, p.Mark)
	top := f.legend(p.Targets, 4, 2) + 4
	bottom := top + plotHeight
	f.height = bottom + 24
	log := len(all) > 0 && slices.Min(all) > 0 && slices.Max(all)/slices.Min(all) > 5
	sc := newScale(log, left, p.Width-14, all...).widen(0.04)
	for _, share := range []float64{0, 0.5, 1} {
		y := bottom - share*plotHeight
		f.line("grid", left, y, p.Width-14, y)
		f.text("tick", "end", left-6, y+4, fmt.Sprintf("%.0f %%", share*100), "")
	}
	f.xTicks(sc, p.Unit, top, bottom)
	for i, v := range curves {
		if len(v) == 0 || i >= len(p.Targets) {
			continue
		}
		series := p.Targets[i].Series
		slices.Sort(v)
		step := max(1, len(v)/maxPoints)
		var d strings.Builder
		fmt.Fprintf(&d, "M%s %s", num(left), num(bottom))
		for k := 0; k < len(v); k += step {
			x := sc.at(v[k])
			fmt.Fprintf(&d, "H%sV%s", num(x), num(bottom-float64(k+1)/float64(len(v))*plotHeight))
		}
		fmt.Fprintf(&d, "H%sV%sH%s", num(sc.at(v[len(v)-1])), num(top), num(p.Width-14))
		fmt.Fprintf(&f.body, `<path class="curve s%d" d="%s"/>`, series%Series, d.String())
		if len(v) <= 60 {
			for k, x := range v {
				f.dot(series, false, sc.at(x), bottom-float64(k+1)/float64(len(v))*plotHeight, 2.6, "")
			}
		}
		mid := v[(len(v)-1)/2]
		f.dot(series, true, sc.at(mid), bottom-math.Ceil(float64(len(v))/2)/float64(len(v))*plotHeight, 4.6, "median "+p.Unit.Format(mid))
	}
	return f
}

// xTicks draws a scale below a figure.
func (f *Figure) xTicks(sc scale, u Unit, top, bottom float64) {
	f.line("axis", sc.from, bottom, sc.to, bottom)
	last := math.Inf(-1)
	for _, t := range sc.ticksIn(u, max(3, int((sc.to-sc.from)/64))) {
		at, s := sc.at(t), u.tick(t)
		w := textWidth(s)
		x := max(at, w/2)
		if x-w/2 < last || x+w/2 > f.width {
			continue
		}
		last = x + w/2 + 6
		f.line("grid", at, top, at, bottom)
		f.text("tick", "middle", x, bottom+15, s, "")
	}
}

func finite(v []float64) (out []float64) {
	for _, x := range v {
		if !math.IsNaN(x) && math.Abs(x) < 1e300 {
			out = append(out, x)
		}
	}
	return out
}
