// Package record is what the small benchmarks' results have in common: when and
// where they were measured, and what is said of many values.
package record

import (
	"slices"
	"time"
)

// Header is the beginning of every result, as it is kept under docs/results/.
type Header struct {
	When time.Time         `json:"when"`
	Mode string            `json:"mode"` // hw, nested-hw, pvm, tcg, tcg-icount
	Env  map[string]string `json:"env"`
}

// Spread is what values say together. Of two middle ones the median is the lower.
type Spread struct {
	Min, Median, P95, Max int64
	N                     int // how many; all else is 0 when there is none
}

// Of sorts f's values of the samples that are wanted.
func Of[S any](samples []S, want func(S) bool, f func(S) int64) Spread {
	var v []int64
	for _, s := range samples {
		if want(s) {
			v = append(v, f(s))
		}
	}
	n := len(v)
	if n == 0 {
		return Spread{}
	}
	slices.Sort(v)
	return Spread{Min: v[0], Median: v[(n-1)/2], P95: v[(n*95-1)/100], Max: v[n-1], N: n}
}

// Count is how many samples are wanted.
func Count[S any](samples []S, want func(S) bool) (n int) {
	for _, s := range samples {
		if want(s) {
			n++
		}
	}
	return n
}

// Distinct are f's values in order of appearance, empty strings left out.
func Distinct[S any](samples []S, f func(S) string) (v []string) {
	for _, s := range samples {
		if x := f(s); x != "" && !slices.Contains(v, x) {
			v = append(v, x)
		}
	}
	return v
}
