package migrate

import (
	"fmt"
	"io"
	"time"
)

// The picture's measures, in pixels.
const (
	svgWidth  = 800
	svgLeft   = 60
	svgBar    = 18
	svgHeight = 150
)

// WriteSVG draws the migration as a timeline: a bar per round, with the pages
// sent as its height, and the blackout in its parts below.
func (r *Report) WriteSVG(w io.Writer) error {
	p := &svg{w: w}
	p.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", svgLeft+svgWidth+20, svgHeight+110)
	p.printf(`<text x="%d" y="14">session %.8s: %s, %v in all, %v of blackout</text>`+"\n", svgLeft, r.Session, r.Outcome,
		r.Total.Round(time.Microsecond), r.Blackout.Total.Round(time.Microsecond))
	p.rounds(r)
	p.blackout(r.Blackout)
	p.printf("</svg>\n")
	return p.err
}

// svg writes until the first error.
type svg struct {
	w   io.Writer
	err error
}

func (p *svg) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// rounds draws copying: left to right is time, the height is pages per round.
func (p *svg) rounds(r *Report) {
	var most uint64 = 1
	whole := r.Blackout.Total
	for _, x := range r.Rounds {
		most, whole = max(most, x.Pages), whole+x.Duration
	}
	x := func(t time.Duration) float64 { return svgLeft + svgWidth*float64(t)/float64(max(whole, 1)) }
	base := float64(20 + svgHeight)
	at := time.Duration(0)
	for i, d := range r.Rounds {
		h := float64(svgHeight-20) * float64(d.Pages) / float64(most)
		p.printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="#4a7ebb"><title>round %d: %d pages, %d bytes, %v, %.0f MiB/s, %d dirtied meanwhile</title></rect>`+"\n",
			x(at), base-h, max(x(at+d.Duration)-x(at)-1, 1), h, i, d.Pages, d.Bytes, d.Duration.Round(time.Microsecond), d.Bandwidth/(1<<20), d.Dirty)
		at += d.Duration
	}
	if r.Blackout.Total > 0 {
		p.printf(`<rect x="%.1f" y="20" width="%.1f" height="%d" fill="#222"><title>blackout: %v</title></rect>`+"\n",
			x(at), max(x(whole)-x(at), 1), svgHeight, r.Blackout.Total)
	}
	p.printf(`<line x1="%d" y1="%.0f" x2="%d" y2="%.0f" stroke="#888"/><text x="4" y="%.0f">%d pages</text>`+"\n",
		svgLeft, base, svgLeft+svgWidth, base, base-svgHeight+30, most)
}

// blackout draws its parts, as wide as the whole picture.
func (p *svg) blackout(b Blackout) {
	if b.Total == 0 {
		return
	}
	y := svgHeight + 50
	at := time.Duration(0)
	p.printf(`<text x="4" y="%d">blackout</text>`+"\n", y+13)
	for i, part := range []struct {
		name string
		d    time.Duration
	}{{"pause", b.Pause}, {"pages", b.Pages}, {"state", b.State}, {"load", b.Load}, {"commit", b.Commit}} {
		scale := func(t time.Duration) float64 { return svgLeft + svgWidth*float64(t)/float64(b.Total) }
		color := []string{"#7f7f7f", "#4a7ebb", "#9bbb59", "#f79646", "#c0504d"}[i]
		p.printf(`<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", scale(at), y, scale(at+part.d)-scale(at), svgBar, color)
		p.printf(`<rect x="%d" y="%d" width="10" height="10" fill="%s"/><text x="%d" y="%d">%s %v</text>`+"\n",
			svgLeft+i*150, y+30, color, svgLeft+i*150+14, y+39, part.name, part.d.Round(time.Microsecond))
		at += part.d
	}
}
