package plot

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// scale maps values onto a stretch of pixels.
type scale struct {
	log       bool
	low, high float64 // of the values, or of their logarithms
	from, to  float64 // pixels
}

// newScale covers all that is finite in v (and, if log, above zero).
func newScale(log bool, from, to float64, v ...float64) scale {
	s := scale{log: log, low: math.Inf(1), high: math.Inf(-1), from: from, to: to}
	for _, x := range v {
		if log {
			x = math.Log(x)
		}
		if !math.IsNaN(x) && !math.IsInf(x, 0) && math.Abs(x) < 1e300 {
			s.low, s.high = min(s.low, x), max(s.high, x)
		}
	}
	if s.low > s.high {
		s.low, s.high = 0, 1
	}
	if s.high-s.low < 1e-9*max(1, math.Abs(s.high)) {
		d := max(1e-3, math.Abs(s.high)*1e-3)
		s.low, s.high = s.low-d, s.high+d
	}
	return s
}

// widen leaves some room on both sides.
func (s scale) widen(share float64) scale {
	d := (s.high - s.low) * share
	s.low, s.high = s.low-d, s.high+d
	return s
}

// at is where v is. What lies outside is at the edge.
func (s scale) at(v float64) float64 {
	if s.log {
		v = math.Log(v)
	}
	if math.IsNaN(v) {
		v = s.low
	}
	share := (min(max(v, s.low), s.high) - s.low) / (s.high - s.low)
	return s.from + share*(s.to-s.from)
}

// has tells whether v is inside.
func (s scale) has(v float64) bool {
	if s.log {
		v = math.Log(v)
	}
	return v >= s.low && v <= s.high
}

// ticks are at most n round values inside.
func (s scale) ticks(n int) (out []float64) {
	if s.log {
		return s.logTicks(n)
	}
	step := math.Pow(10, math.Floor(math.Log10((s.high-s.low)/float64(n))))
	for _, f := range []float64{1, 2, 5, 10} {
		if (s.high-s.low)/(step*f) <= float64(n) {
			step *= f
			break
		}
	}
	for i := math.Ceil(s.low / step); i*step <= s.high && len(out) <= n; i++ {
		v := i * step
		if v == 0 {
			v = 0 // and not its negative
		}
		out = append(out, v)
	}
	return out
}

// ticksIn are ticks that are round in the unit that the largest is written in.
func (s scale) ticksIn(u Unit, n int) (out []float64) {
	if s.log {
		return s.ticks(n)
	}
	by := 1.0
	for _, p := range slices.Backward(prefixes[u]) {
		if max(math.Abs(s.low), math.Abs(s.high)) >= p.of {
			by = p.of
		}
	}
	s.low, s.high = s.low/by, s.high/by
	for _, v := range s.ticks(n) {
		out = append(out, v*by)
	}
	return out
}

// logTicks tries the finest steps of a decade that are not too many.
func (s scale) logTicks(n int) (out []float64) {
	low, high := math.Exp(s.low), math.Exp(s.high)
	for _, of := range [][]float64{{1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 7, 8, 9, 9.5}, {1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8}, {1, 1.5, 2, 3, 5, 7}, {1, 2, 5}, {1, 3}, {1}} {
		out = out[:0]
		for d := math.Floor(math.Log10(low)); d <= math.Log10(high) && len(out) <= n; d++ {
			for _, f := range of {
				if v := f * math.Pow(10, d); v >= low*(1-1e-9) && v <= high*(1+1e-9) {
					out = append(out, v)
				}
			}
		}
		if len(out) <= n {
			return out
		}
	}
	// Many decades: some of them.
	all := out
	for d := math.Floor(math.Log10(low)); d <= math.Log10(high) && len(all) < 400; d++ {
		all = append(all, math.Pow(10, d))
	}
	out = nil
	for i := 0; i < len(all); i += len(all)/n + 1 {
		if all[i] >= low && all[i] <= high {
			out = append(out, all[i])
		}
	}
	return out
}

// Unit is what values are measured in.
type Unit int

// The units that figures know.
const (
	Nanoseconds Unit = iota
	Bytes
	Times // a ratio
)

type prefix struct {
	of   float64
	name string
}

var prefixes = map[Unit][]prefix{
	Nanoseconds: {{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}, {1, "ns"}},
	Bytes:       {{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}, {1, "B"}},
	Times:       {{1, "×"}},
}

// Format writes a value with three digits and its unit.
func (u Unit) Format(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	all := prefixes[u]
	p := all[len(all)-1]
	for _, q := range all {
		if math.Abs(v) >= q.of*0.9995 {
			p = q
			break
		}
	}
	space := " "
	if u == Times {
		space = ""
	}
	return digits(v/p.of) + space + p.name
}

// digits writes three significant digits, without an exponent where that is short.
func digits(v float64) string {
	a := math.Abs(v)
	switch {
	case a >= 1e6 || a > 0 && a < 1e-4:
		return fmt.Sprintf("%.2e", v)
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.9995 || v == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// tick is Format without digits that say nothing.
func (u Unit) tick(v float64) string {
	n, unit, _ := strings.Cut(u.Format(v), " ")
	if u == Times {
		n, unit = strings.TrimSuffix(n, "×"), ""
	}
	if strings.Contains(n, ".") && !strings.Contains(n, "e") {
		n = strings.TrimRight(strings.TrimRight(n, "0"), ".")
	}
	return strings.TrimSpace(n + " " + unit)
}
