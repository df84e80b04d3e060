package report

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

// Change is one probe on one target in two runs.
type Change struct {
	Key      result.Key
	Target   string
	Estimate stats.Estimate // new over old
	Delta    float64
	Verdict  stats.Verdict
}

// Compare compares runs of the same execution mode. δ is the larger of both
// runs' A/A noise and least.
func Compare(old, now *result.Result, least float64) ([]Change, error) {
	if old.Mode != now.Mode {
		return nil, fmt.Errorf("one run is of execution mode %s, the other of %s: their figures cannot be compared", old.Mode, now.Mode)
	}
	before, err := newIndex(old)
	if err != nil {
		return nil, err
	}
	after, err := newIndex(now)
	if err != nil {
		return nil, err
	}
	var out []Change
	for _, k := range after.keys {
		delta := least
		for _, i := range []*index{before, after} {
			x, y := paired(i.of(k, i.r.Base()), i.of(k, i.r.Plan.Copy))
			delta = max(delta, stats.Noise(stats.Ratio(x, y, i.r.Seed)))
		}
		for _, t := range now.Plan.Targets {
			x, y := paired(before.of(k, t), after.of(k, t))
			c := Change{Key: k, Target: t, Estimate: stats.Ratio(x, y, now.Seed), Delta: delta}
			c.Verdict = stats.Judge(c.Estimate, delta)
			out = append(out, c)
		}
	}
	return out, nil
}
