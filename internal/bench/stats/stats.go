package stats

import (
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// Resamples of a bootstrap.
const Resamples = 10000

// MinPairs are the fewest that a verdict can be had from.
const MinPairs = 4

// Family is how many comparisons a verdict of a difference is made as one of:
// about as many as a run has probes. It is the same for every run, so that a
// probe's verdict does not depend on what else was measured.
const Family = 50

// Estimate is a geometric mean of ratios with its 95 % interval.
type Estimate struct {
	Ratio, Low, High float64
	// SureLow and SureHigh hold the truth of all Family comparisons at once with
	// 95 %. They are never inside Low and High.
	SureLow, SureHigh float64
	Pairs             int // 0: there is none, and all else is NaN
}

// None is the estimate of nothing.
var None = Estimate{Ratio: math.NaN(), Low: math.NaN(), High: math.NaN(), SureLow: math.NaN(), SureHigh: math.NaN()}

// Ratio estimates b over a, pair by pair. Pairs with a value that is not above
// zero have no logarithm and do not count. The same seed gives the same interval.
func Ratio(a, b []float64, seed uint64) Estimate {
	var logs []float64
	for i := range min(len(a), len(b)) {
		if a[i] > 0 && b[i] > 0 {
			logs = append(logs, math.Log(b[i]/a[i]))
		}
	}
	n := len(logs)
	if n == 0 {
		return None
	}
	mean := stat.Mean(logs, nil)
	e := Estimate{Ratio: math.Exp(mean), Low: math.Exp(mean), High: math.Exp(mean), Pairs: n}
	if n == 1 {
		e.Low, e.High = 0, math.Inf(1) // one pair says nothing of its error
		e.SureLow, e.SureHigh = e.Low, e.High
		return e
	}
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	means := make([]float64, Resamples)
	for i := range means {
		s := 0.0
		for range n {
			s += logs[r.IntN(n)]
		}
		means[i] = s / float64(n)
	}
	slices.Sort(means)
	p := tail(n)
	e.Low = math.Exp(stat.Quantile(p, stat.Empirical, means, nil))
	e.High = math.Exp(stat.Quantile(1-p, stat.Empirical, means, nil))
	// Means of few pairs cannot be resampled farther than the pairs themselves
	// are apart, and n pairs are all on one side of the truth in 2 of 2^n times.
	half := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: float64(n - 1)}.Quantile(1-0.025/Family) * stat.StdErr(stat.StdDev(logs, nil), float64(n))
	e.SureLow, e.SureHigh = min(e.Low, math.Exp(mean-half)), max(e.High, math.Exp(mean+half))
	return e
}

// tail is how much of the bootstrap's distribution is left out on each side for
// a 95 % interval: 2.5 % for many pairs, less for few.
func tail(n int) float64 {
	t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: float64(n - 1)}.Quantile(0.975)
	return distuv.UnitNormal.CDF(-math.Sqrt(float64(n)/float64(n-1)) * t)
}

// Verdict is what an estimate says.
type Verdict string

// The verdicts. Costs are compared: slower is more.
const (
	Slower       Verdict = "slower"
	Faster       Verdict = "faster"
	Equal        Verdict = "equal"
	Inconclusive Verdict = "inconclusive"
	NotMeasured  Verdict = "not measured"
)

// MinDelta is the least difference that is called one.
const MinDelta = 0.02

// MaxEqual is the most that things that are called equal may differ by: where the
// noise is larger, nothing can be told.
const MaxEqual = 0.05

// Noise is the δ that an A/A estimate asks for.
func Noise(aa Estimate) float64 {
	if aa.Pairs < 2 {
		return MinDelta
	}
	return max(MinDelta, math.Abs(aa.High-1), math.Abs(1-aa.Low))
}

// Judge says what e means where differences up to delta are none.
func Judge(e Estimate, delta float64) Verdict {
	switch {
	case e.Pairs == 0:
		return NotMeasured
	case e.Pairs < MinPairs:
		return Inconclusive
	case e.SureLow > 1+delta:
		return Slower
	case e.SureHigh < 1-delta:
		return Faster
	case e.Low >= 1-min(delta, MaxEqual) && e.High <= 1+min(delta, MaxEqual):
		return Equal
	}
	return Inconclusive
}

// Summary is of the values themselves.
type Summary struct {
	N                            int
	Min, Median, P95, P99, Worst float64
}

// Summarize sorts a copy of v. All is zero when v is empty.
func Summarize(v []float64) Summary {
	if len(v) == 0 {
		return Summary{}
	}
	v = slices.Clone(v)
	slices.Sort(v)
	q := func(p float64) float64 { return stat.Quantile(p, stat.Empirical, v, nil) }
	return Summary{N: len(v), Min: v[0], Median: q(0.5), P95: q(0.95), P99: q(0.99), Worst: v[len(v)-1]}
}

// Slope is the straight line through points: its rise for each x.
func Slope(x, y []float64) float64 {
	if len(x) < 2 {
		return math.NaN()
	}
	_, b := stat.LinearRegression(x, y, nil, false)
	return b
}

// Outliers counts values more than 5 median absolute deviations from the
// median. They are marked, never left out.
func Outliers(v []float64) int {
	if len(v) < 3 {
		return 0
	}
	mid := Summarize(v).Median
	dev := make([]float64, len(v))
	for i, x := range v {
		dev[i] = math.Abs(x - mid)
	}
	mad, n := Summarize(dev).Median, 0
	for _, d := range dev {
		if mad > 0 && d > 5*mad {
			n++
		}
	}
	return n
}
