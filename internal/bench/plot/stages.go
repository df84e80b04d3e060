package plot

import "fmt"

// Bar is what a target took, part by part.
type Bar struct {
	Name  string
	Parts []float64 // in the order of Stages.Names; what is not above zero is none
}

// Stages is a timeline of parts for each target, on one linear scale.
type Stages struct {
	Title, Mark string
	Names       []string
	Bars        []Bar
	Unit        Unit
	Width       float64
}

// Draw draws it.
func (p Stages) Draw() *Figure {
	const left, row = 4.0, 40.0
	f := newFigure(p.Width, 100, p.Title, p.Mark)
	x, y := left, 2.0
	for i, n := range p.Names {
		n = short(n, 20)
		w := 20 + textWidth(n)
		if x > left && x+w > p.Width {
			x, y = left, y+18
		}
		f.rect(fmt.Sprintf("p%d", i%Series), x, y+3, 11, 11)
		f.text("label", "start", x+16, y+12, n, "")
		x += w + 8
	}
	top := y + 22
	sums := []float64{0}
	for _, b := range p.Bars {
		s := 0.0
		for _, v := range finite(b.Parts) {
			s += max(v, 0)
		}
		sums = append(sums, s)
	}
	sc := newScale(false, left, p.Width-14, sums...)
	bottom := top + row*float64(len(p.Bars))
	f.xTicks(sc, p.Unit, top, bottom)
	for i, b := range p.Bars {
		y, at := top+row*float64(i), 0.0
		f.text("head", "start", left, y+13, short(Text(b.Name), 24), "")
		f.text("label", "end", p.Width-14, y+13, p.Unit.Format(sums[i+1]), "")
		for k, v := range b.Parts {
			if fin := finite([]float64{v}); len(fin) == 0 || v <= 0 {
				continue
			}
			f.rect(fmt.Sprintf("p%d", k%Series), sc.at(at), y+18, sc.at(at+v)-sc.at(at), 15)
			at += v
		}
	}
	f.height = bottom + 24
	return f
}
