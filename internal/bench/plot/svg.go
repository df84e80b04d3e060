package plot

import (
	_ "embed" // the colours
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// Style is the CSS that figures need, for the page that they are part of.
//
//go:embed plot.css
var Style string

// Series is how many colours there are for targets; more repeat them.
const Series = 6

// maxText bounds any text in a figure.
const maxText = 200

// Figure is a drawing with a size in CSS pixels.
type Figure struct {
	width, height float64
	title         string
	mark          string // across all of it: what it must not be taken for
	body          strings.Builder
}

func newFigure(width, height float64, title, mark string) *Figure {
	return &Figure{width: width, height: height, title: Text(title), mark: Text(mark)}
}

// Inline is the figure as an element of an HTML page that has Style.
func (f *Figure) Inline() string { return f.svg("") }

// File is the figure as a file of its own.
func (f *Figure) File() string {
	return f.svg("<style>" + Style + "svg{background:var(--paper)}</style>")
}

func (f *Figure) svg(style string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 %s %s" width="%s" height="%s" role="img" aria-label="%s"><title>%s</title>%s`,
		num(f.width), num(f.height), num(f.width), num(f.height), escape(f.title), escape(f.title), style)
	b.WriteString(f.content())
	b.WriteString("</svg>")
	return b.String()
}

// content is what was drawn, and the mark.
func (f *Figure) content() string {
	var b strings.Builder
	b.WriteString(f.body.String())
	if f.mark != "" { // over everything: a part cut out of the figure has it, too
		n := max(1, math.Round(f.height/110))
		for i := range int(n) {
			fmt.Fprintf(&b, `<text class="mark" x="%s" y="%s" text-anchor="middle">%s</text>`, num(f.width/2), num(f.height*(float64(i)+0.5)/n), escape(f.mark))
		}
	}
	return b.String()
}

func (f *Figure) line(class string, x1, y1, x2, y2 float64) {
	fmt.Fprintf(&f.body, `<line class="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>`, class, num(x1), num(y1), num(x2), num(y2))
}

func (f *Figure) rect(class string, x, y, w, h float64) {
	fmt.Fprintf(&f.body, `<rect class="%s" x="%s" y="%s" width="%s" height="%s"/>`, class, num(x), num(y), num(max(w, 0)), num(max(h, 0)))
}

// text writes s; anchor is start, middle or end. tip is shown when it is
// pointed at.
func (f *Figure) text(class, anchor string, x, y float64, s, tip string) {
	fmt.Fprintf(&f.body, `<text class="%s" text-anchor="%s" x="%s" y="%s">%s`, class, anchor, num(x), num(y), escape(s))
	if tip != "" {
		fmt.Fprintf(&f.body, `<title>%s</title>`, escape(tip))
	}
	f.body.WriteString("</text>")
}

// dot draws the mark of a target: another shape for another one, so that colour
// is not all that tells them apart.
func (f *Figure) dot(series int, hollow bool, x, y, r float64, tip string) {
	class := fmt.Sprintf("s%d", series%Series)
	if hollow {
		class += " hollow"
	}
	var d string
	switch series % 4 {
	case 0:
		d = fmt.Sprintf("M%s %sa%s %s 0 1 0 %s 0a%s %s 0 1 0 -%s 0z", num(x-r), num(y), num(r), num(r), num(2*r), num(r), num(r), num(2*r))
	case 1:
		d = poly(x-r*.9, y-r*.9, x+r*.9, y-r*.9, x+r*.9, y+r*.9, x-r*.9, y+r*.9)
	case 2:
		d = poly(x, y-r*1.25, x+r*1.25, y, x, y+r*1.25, x-r*1.25, y)
	default:
		d = poly(x, y-r*1.15, x+r*1.1, y+r*.85, x-r*1.1, y+r*.85)
	}
	fmt.Fprintf(&f.body, `<path class="%s" d="%s">`, class, d)
	if tip != "" {
		fmt.Fprintf(&f.body, `<title>%s</title>`, escape(tip))
	}
	f.body.WriteString("</path>")
}

func poly(xy ...float64) string {
	var b strings.Builder
	for i := 0; i+1 < len(xy); i += 2 {
		b.WriteString(map[bool]string{true: "M", false: "L"}[i == 0] + num(xy[i]) + " " + num(xy[i+1]))
	}
	return b.String() + "z"
}

// Target is what a figure shows values of. The same one has the same Series in
// all figures of a report, and so the same colour and mark.
type Target struct {
	Name   string
	Series int
}

// legend writes the targets' marks and names in lines from the top on, and
// returns where the figure goes on.
func (f *Figure) legend(targets []Target, left, top float64) float64 {
	x, y := left, top
	for _, t := range targets {
		n := short(Text(t.Name), 24)
		w := 20 + textWidth(n)
		if x > left && x+w > f.width {
			x, y = left, y+18
		}
		f.dot(t.Series, false, x+6, y+8, 4.2, "")
		f.text("label", "start", x+15, y+12, n, "")
		x += w + 10
	}
	return y + 24
}

// textWidth is about what s takes, in the figures' font.
func textWidth(s string) float64 { return 6.6 * float64(len([]rune(s))) }

// num writes a coordinate. One that is not finite is nowhere near the figure.
func num(v float64) string {
	if math.IsNaN(v) || math.Abs(v) > 1e5 {
		v = -1e5
	}
	return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64)
}

// Text makes anything into one short line of printable text.
func Text(s string) string { return OneLine(s, maxText) }

// OneLine makes anything into one line of printable text, of at most so many
// characters.
func OneLine(s string, most int) string {
	if len(s) > 4*most {
		s = s[:4*most]
	}
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "�")), " ")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	return short(s, most)
}

// short cuts s to n characters.
func short(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(Text(s)))
	return b.String()
}

// Beside puts figures beside each other, each with its own mark.
func Beside(title string, figures ...*Figure) *Figure {
	const space = 24
	out := newFigure(0, 0, title, "")
	for i, f := range figures {
		if i > 0 {
			out.width += space
		}
		fmt.Fprintf(&out.body, `<svg x="%s" width="%s" height="%s">%s</svg>`, num(out.width), num(f.width), num(f.height), f.content())
		out.width, out.height = out.width+f.width, max(out.height, f.height)
	}
	return out
}
