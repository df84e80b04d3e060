package plot

import "math"

// Mark is one value of a strip.
type Mark struct {
	Series int
	Value  float64
	Hollow bool
}

// Row is a line of a strip.
type Row struct {
	Name  string
	Marks []Mark
}

// Strip is values of different things on one logarithmic scale, a line for each.
type Strip struct {
	Title, Mark string
	Targets     []Target
	Rows        []Row
	Unit        Unit
	Width       float64
}

// Draw draws it.
func (p Strip) Draw() *Figure {
	const row, left = 40.0, 4.0
	f := newFigure(p.Width, 100, p.Title, p.Mark)
	top := f.legend(p.Targets, 4, 2) + 2
	bottom := top + row*float64(len(p.Rows))
	f.height = bottom + 24
	var all []float64
	for _, r := range p.Rows {
		for _, m := range r.Marks {
			all = append(all, m.Value)
		}
	}
	sc := newScale(true, left+8, p.Width-22, all...).widen(0.03)
	f.xTicks(sc, p.Unit, top, bottom)
	for i, r := range p.Rows {
		y := top + row*float64(i)
		f.text("head", "start", left, y+13, short(Text(r.Name), int(p.Width/7)), "")
		f.line("axis", sc.from, y+27, sc.to, y+27)
		for _, m := range r.Marks {
			if m.Value > 0 && !math.IsInf(m.Value, 0) {
				f.dot(m.Series, m.Hollow, sc.at(m.Value), y+27, 5, p.Unit.Format(m.Value))
			}
		}
	}
	return f
}
