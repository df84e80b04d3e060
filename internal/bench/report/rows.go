package report

import (
	"math"

	"github.com/hvctl/hvctl/internal/bench/plot"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

// Row is one probe on one target beside the base.
type Row struct {
	Key          result.Key
	Target       string
	Unit         plot.Unit     // of Base and Value
	Base, Value  stats.Summary // cost of one operation
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

// Rows are all probes on all targets but the base, its copy first. A result that
// is too much for a report is an error.
func Rows(r *result.Result) ([]Row, error) {
	x, err := newIndex(r)
	if err != nil {
		return nil, err
	}
	return x.rows(), nil
}

func (x *index) rows() (rows []Row) {
	r := x.r
	for _, k := range x.keys {
		if k.Probe == result.Instance { // one that failed as a whole
			continue
		}
		base := x.of(k, r.Base())
		a, b := paired(base, x.of(k, r.Plan.Copy))
		delta := stats.Noise(stats.Ratio(a, b, r.Seed))
		for _, target := range append([]string{r.Plan.Copy}, r.Plan.Targets[1:]...) {
			good := x.of(k, target)
			a, b := paired(base, good)
			row := Row{
				Key: k, Target: target, Unit: plotUnit(x.unit(k)), Base: stats.Summarize(values(base)), Value: stats.Summarize(values(good)),
				Estimate: stats.Ratio(a, b, r.Seed), Delta: delta, ExitsPerOp: math.NaN(), CPUPerOpNs: math.NaN(), Wide: stats.Outliers(values(good)),
				Failed: x.failed[cell{k, target}],
			}
			if target == r.Plan.Copy { // its own noise would excuse whatever it does
				row.Delta = stats.MinDelta
			}
			row.Verdict = stats.Judge(row.Estimate, row.Delta)
			row.cost(good)
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

func plotUnit(u string) plot.Unit {
	if u == result.Bytes {
		return plot.Bytes
	}
	return plot.Nanoseconds
}
