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
	var out []Change
	for _, k := range now.Probes() {
		delta := least
		for _, r := range []*result.Result{old, now} {
			x, y := paired(r.Good(k, r.Base()), r.Good(k, r.Plan.Copy))
			delta = max(delta, stats.Noise(stats.Ratio(x, y, r.Seed)))
		}
		for _, t := range now.Plan.Targets {
			x, y := paired(old.Good(k, t), now.Good(k, t))
			c := Change{Key: k, Target: t, Estimate: stats.Ratio(x, y, now.Seed), Delta: delta}
			c.Verdict = stats.Judge(c.Estimate, delta)
			out = append(out, c)
		}
	}
	return out, nil
}
