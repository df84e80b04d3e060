package report

import (
	"math"

	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

// Row is one probe on one target beside the base.
type Row struct {
	Key          result.Key
	Target       string
	Base, Value  stats.Summary // ns of one operation
	Estimate     stats.Estimate
	Delta        float64
	Verdict      stats.Verdict
	ExitsPerOp   float64 // NaN: it has no exits
	CPUPerOpNs   float64
	Failed, Wide int // samples that failed; outliers, which count all the same
}

// paired are the values of two targets in the blocks that both have.
func paired(a, b []result.Sample) (x, y []float64) {
	at := map[int]float64{}
	for _, s := range a {
		at[s.Block] = s.Value
	}
	for _, s := range b {
		if v, ok := at[s.Block]; ok {
			x, y = append(x, v), append(y, s.Value)
		}
	}
	return x, y
}

func values(s []result.Sample) (v []float64) {
	for _, x := range s {
		v = append(v, x.Value)
	}
	return v
}

// Rows are all probes on all targets but the base, its copy first.
func Rows(r *result.Result) (rows []Row) {
	for _, k := range r.Probes() {
		if k.Probe == "instance" { // an instance that failed as a whole
			continue
		}
		base := r.Good(k, r.Base())
		x, y := paired(base, r.Good(k, r.Plan.Copy))
		delta := stats.Noise(stats.Ratio(x, y, r.Seed))
		for _, target := range append([]string{r.Plan.Copy}, r.Plan.Targets[1:]...) {
			good := r.Good(k, target)
			x, y := paired(base, good)
			row := Row{
				Key: k, Target: target, Base: stats.Summarize(values(base)), Value: stats.Summarize(values(good)),
				Estimate: stats.Ratio(x, y, r.Seed), Delta: delta, ExitsPerOp: math.NaN(), CPUPerOpNs: math.NaN(), Wide: stats.Outliers(values(good)),
			}
			if target == r.Plan.Copy { // its own noise would excuse whatever it does
				row.Delta = stats.MinDelta
			}
			row.Verdict = stats.Judge(row.Estimate, row.Delta)
			row.cost(good)
			for _, s := range r.Failed(target) {
				if s.Probe == k.Probe {
					row.Failed++
				}
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// cost adds up what was counted from outside.
func (row *Row) cost(good []result.Sample) {
	var ops, exits, cpu float64
	counted := false
	for _, s := range good {
		ops, cpu = ops+float64(s.Ops), cpu+float64(s.CPUNs)
		for _, n := range s.Exits {
			exits, counted = exits+float64(n), true
		}
	}
	if ops > 0 {
		row.CPUPerOpNs = cpu / ops
		if counted {
			row.ExitsPerOp = exits / ops
		}
	}
}
