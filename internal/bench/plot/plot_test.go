package plot_test

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/bench/plot"
)

const odd = "</text><script>alert(1)</script>\x00\xff \"'&" + "long"

var numbers = []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, -1, 1, 1e-300, math.MaxFloat64, 3e9}

// figures are one of each kind, of what was given.
func figures(name string, v []float64) map[string]*plot.Figure {
	targets := []plot.Target{{Name: name}, {Name: name, Series: 9}}
	forest := plot.Forest{Title: name, Mark: name, Targets: targets, Width: 400}
	strip := plot.Strip{Title: name, Mark: name, Targets: targets, Width: 400}
	for _, x := range v {
		forest.Groups = append(forest.Groups, plot.Group{Name: name, Delta: x, Intervals: []plot.Interval{{Target: targets[0], Ratio: x, Low: -x, High: x, Verdict: name, Class: "bad"}}}, plot.Group{})
		strip.Rows = append(strip.Rows, plot.Row{Name: name, Marks: []plot.Mark{{Series: 3, Value: x}}})
	}
	return map[string]*plot.Figure{
		"forest": forest.Draw(), "strip": strip.Draw(),
		"distribution": plot.Distribution{Title: name, Mark: name, Targets: targets, Values: [][]float64{v, nil, v}, Width: 400}.Draw(),
		"stages":       plot.Stages{Title: name, Mark: name, Names: []string{name}, Bars: []plot.Bar{{Name: name, Parts: v}, {}}, Width: 400}.Draw(),
		"points":       plot.Points{Title: name, Mark: name, Targets: targets, Lines: []plot.Line{{X: v, Y: v, Slope: math.NaN()}, {X: v, Y: v, Slope: 1}, {}}, Unit: plot.Bytes, Width: 400}.Draw(),
	}
}

// check fails when a figure is not XML, or has what it must not.
func check(t *testing.T, svg string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v in %s", err, svg)
		}
		if e, ok := tok.(xml.StartElement); ok {
			if e.Name.Local == "script" {
				t.Error("a script")
			}
			for _, a := range e.Attr {
				if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
					t.Errorf("%s %s=%q", e.Name.Local, a.Name.Local, a.Value)
				}
			}
		}
	}
}

func TestFiguresOfAnythingAreWellFormed(t *testing.T) {
	for input, v := range map[string][]float64{"odd numbers": numbers, "nothing": nil, "one": {5}, "equal": {5, 5, 5}, "many": make([]float64, 500)} {
		var all []*plot.Figure
		for kind, f := range figures(odd, v) {
			t.Run(kind+" of "+input, func(t *testing.T) { check(t, f.Inline()); check(t, f.File()) })
			all = append(all, f)
		}
		check(t, plot.Beside(odd, all...).File())
	}
}

var dots = regexp.MustCompile(`<path class="s1[^"]*" d="M([0-9.]+)`)

func TestForestPutsSlowerToTheRight(t *testing.T) {
	target := plot.Target{Name: "vm", Series: 1}
	f := plot.Forest{Targets: []plot.Target{target}, Width: 400}
	for _, r := range []float64{0.5, 1, 2} {
		f.Groups = append(f.Groups, plot.Group{Name: "p", Intervals: []plot.Interval{{Target: target, Ratio: r, Low: r * 0.9, High: r * 1.1}}})
	}
	var at []float64
	for _, m := range dots.FindAllStringSubmatch(f.Draw().Inline(), -1)[1:] { // the first is the legend's
		x, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, x)
	}
	if len(at) != 3 || at[0] >= at[1] || at[1] >= at[2] || math.Abs(at[1]-at[0]-(at[2]-at[1])) > 0.5 {
		t.Errorf("at %v: want equal steps to the right", at)
	}
}

func TestUnitsAreWrittenWithThreeDigits(t *testing.T) {
	for _, c := range []struct {
		unit plot.Unit
		v    float64
		want string
	}{
		{plot.Nanoseconds, 0, "0.00 ns"},
		{plot.Nanoseconds, 999.96, "1.00 µs"},
		{plot.Nanoseconds, 12345678, "12.3 ms"},
		{plot.Nanoseconds, 9e13, "90000 s"},
		{plot.Bytes, 1536, "1.50 KiB"},
		{plot.Bytes, 300 << 20, "300 MiB"},
		{plot.Times, 1.936, "1.94×"},
		{plot.Bytes, math.NaN(), "–"},
	} {
		if got := c.unit.Format(c.v); got != c.want {
			t.Errorf("%v: %q, want %q", c.v, got, c.want)
		}
	}
}
