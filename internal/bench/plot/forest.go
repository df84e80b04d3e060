package plot

import (
	"fmt"
	"math"
)

// Interval is a ratio with its interval and what it is called.
type Interval struct {
	Target           Target
	Ratio, Low, High float64
	Verdict          string
	Class            string // of CSS, for the verdict: bad, good, flat, open
	Open             bool   // nothing can be told: its dot is hollow
}

// Group is a line of a forest: one probe on all targets.
type Group struct {
	Name      string
	Delta     float64 // differences up to this are none: the band around 1
	Intervals []Interval
}

// Forest is ratios with their intervals, on a logarithmic scale, groups from
// top to bottom as they are given.
type Forest struct {
	Title, Mark string
	Targets     []Target
	Groups      []Group
	Width       float64
	// Less and More are what being left and right of 1 means; empty: faster, slower.
	Less, More string
}

// rangeLimit is the largest ratio that a forest's scale follows.
const rangeLimit = 1000

const lane, gap = 17.0, 9.0

// Draw draws it.
func (p Forest) Draw() *Figure {
	left := 0.0
	for _, g := range p.Groups {
		left = max(left, textWidth(short(Text(g.Name), 18)))
	}
	left = min(left+10, 0.34*p.Width)
	right := p.Width - 124
	v := []float64{1 / 1.1, 1.1}
	lanes := 0
	for _, g := range p.Groups {
		for _, i := range g.Intervals {
			for _, x := range []float64{i.Low, i.Ratio, i.High} {
				if x > 1./rangeLimit && x < rangeLimit {
					v = append(v, x)
				}
			}
		}
		lanes += max(1, len(g.Intervals))
	}
	sc := newScale(true, left+6, right-8, v...).widen(0.04)
	height := 26 + 18*math.Ceil(float64(len(p.Targets))*110/p.Width) + float64(lanes)*lane + float64(len(p.Groups))*gap + 34
	f := newFigure(p.Width, height, p.Title, p.Mark)
	top := f.legend(p.Targets, 4, 2)
	y := top
	bottom := y + float64(lanes)*lane + float64(len(p.Groups))*gap
	y = top
	for _, g := range p.Groups {
		h := float64(max(1, len(g.Intervals))) * lane
		if d := g.Delta; d > 0 && d < 1 {
			f.rect("band", sc.at(1-d), y+1, sc.at(1+d)-sc.at(1-d), h+gap-2)
		}
		y += h + gap
	}
	for _, t := range sc.ticks(max(3, int((right-left)/42))) {
		f.line("grid", sc.at(t), top, sc.at(t), bottom)
		f.text("tick", "middle", sc.at(t), bottom+14, Times.tick(t), "")
	}
	f.line("one", sc.at(1), top, sc.at(1), bottom)
	f.text("tick", "start", left+6, bottom+29, "← "+word(p.Less, "faster"), "")
	f.text("tick", "end", right-8, bottom+29, word(p.More, "slower")+" →", "")
	y = top
	for n, g := range p.Groups {
		if n > 0 {
			f.line("axis", 0, y, p.Width, y)
		}
		name := Text(g.Name)
		f.text("head", "start", 4, y+gap/2+lane/2+4, short(name, int((left-8)/6.4)), tipIfCut(name, int((left-8)/6.4)))
		y += gap / 2
		for _, i := range g.Intervals {
			p.interval(f, sc, i, y+lane/2, right)
			y += lane
		}
		if len(g.Intervals) == 0 {
			y += lane
		}
		y += gap / 2
	}
	f.height = bottom + 36
	return f
}

func (p Forest) interval(f *Figure, sc scale, i Interval, y, right float64) {
	name := i.Target.Name
	verdict := short(i.Verdict, 14)
	if math.IsNaN(i.Ratio) {
		f.text(i.Class, "start", right, y+4, verdict, name)
		return
	}
	tip := fmt.Sprintf("%s: %s (%s to %s), %s", name, ratio(i.Ratio), ratio(i.Low), ratio(i.High), i.Verdict)
	a, b := sc.at(i.Low), sc.at(i.High)
	f.line(fmt.Sprintf("whisker s%d", i.Target.Series%Series), a, y, b, y)
	for x, v := range map[float64]float64{a: i.Low, b: i.High} {
		if sc.has(v) {
			f.line(fmt.Sprintf("whisker s%d", i.Target.Series%Series), x, y-3.5, x, y+3.5)
		}
	}
	f.dot(i.Target.Series, i.Open, sc.at(i.Ratio), y, 4.2, tip)
	f.text("label", "end", right+34, y+4, ratio(i.Ratio), tip)
	f.text(i.Class, "start", right+40, y+4, verdict, tip)
}

func ratio(v float64) string {
	switch {
	case v > 1e6:
		return "∞"
	case v >= 100:
		return fmt.Sprintf("%.0f×", v)
	case v >= 10:
		return fmt.Sprintf("%.1f×", v)
	}
	return fmt.Sprintf("%.2f×", v)
}

func word(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func tipIfCut(s string, n int) string {
	if len([]rune(s)) > n {
		return s
	}
	return ""
}
