package report

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/bench/result"
)

// What a report is made of. Files may come from anywhere, and the intervals of
// all their probes have to be computed.
const (
	maxTargets = 32
	maxProbes  = 400
	maxSamples = 200_000
	maxCommand = 2000
)

// index finds a result's samples.
type index struct {
	r      *result.Result
	keys   []result.Key
	good   map[cell][]result.Sample
	failed map[cell]int
	broken map[string][]result.Sample // by target: those that failed
}

type cell struct {
	key    result.Key
	target string
}

// newIndex refuses what is too much for a report.
func newIndex(r *result.Result) (*index, error) {
	if n := len(r.Plan.Targets); n > maxTargets {
		return nil, fmt.Errorf("the result has %d targets, a report has at most %d", n, maxTargets)
	}
	if n := len(r.Samples); n > maxSamples {
		return nil, fmt.Errorf("the result has %d samples, a report has at most %d", n, maxSamples)
	}
	x := &index{r: r, good: map[cell][]result.Sample{}, failed: map[cell]int{}, broken: map[string][]result.Sample{}}
	seen := map[result.Key]bool{}
	for _, s := range r.Samples {
		k := result.Key{Chapter: s.Chapter, Probe: s.Probe}
		if !seen[k] {
			if seen[k] = true; len(seen) > maxProbes {
				return nil, fmt.Errorf("the result has more than %d probes", maxProbes)
			}
			x.keys = append(x.keys, k)
		}
		switch {
		case s.Error != "":
			x.failed[cell{k, s.Target}]++
			x.broken[s.Target] = append(x.broken[s.Target], s)
		case !s.Warmup:
			x.good[cell{k, s.Target}] = append(x.good[cell{k, s.Target}], s)
		}
	}
	return x, nil
}

// of are the good samples of a probe on a target.
func (x *index) of(k result.Key, target string) []result.Sample { return x.good[cell{k, target}] }

// chapters in order of appearance.
func (x *index) chapters() (names []string) {
	seen := map[string]bool{}
	for _, k := range x.keys {
		if !seen[k.Chapter] {
			seen[k.Chapter] = true
			names = append(names, k.Chapter)
		}
	}
	return names
}

// unit is what a probe's values are measured in.
func (x *index) unit(k result.Key) string {
	for _, t := range append([]string{x.r.Plan.Copy}, x.r.Plan.Targets...) {
		if s := x.of(k, t); len(s) > 0 {
			return s[0].Unit
		}
	}
	return result.Nanoseconds
}
