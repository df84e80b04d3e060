package stats_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/hvctl/hvctl/internal/bench/stats"
)

// noisy is n values around 1 with so much relative noise.
func noisy(r *rand.Rand, n int, mean, sigma float64) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = mean * math.Exp(sigma*r.NormFloat64())
	}
	return v
}

func TestFivePerCentIsFoundInQuietSamples(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	a, aa, b := noisy(r, 8, 100, 0.005), noisy(r, 8, 100, 0.005), noisy(r, 8, 105, 0.005)
	delta := stats.Noise(stats.Ratio(a, aa, 7))
	if e := stats.Ratio(a, b, 7); stats.Judge(e, delta) != stats.Slower {
		t.Errorf("%+v with delta %v: %s", e, delta, stats.Judge(e, delta))
	}
	if e := stats.Ratio(b, a, 7); stats.Judge(e, delta) != stats.Faster {
		t.Errorf("the other way round %+v", e)
	}
}

// Of many comparisons of a thing with itself none to speak of is called different.
// The interval of 20 pairs misses the truth about as often as it says (5 %; 20 of 400
// were seen), that of 5 pairs twice as often (39 of 400), which is why the verdict
// looks at the A/A noise, too.
func TestIntervalsHoldWhatTheySay(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, n := range []int{5, 20} {
		missed, called := 0, 0
		const all = 60
		for i := range all {
			a, aa, b := noisy(r, n, 100, 0.05), noisy(r, n, 100, 0.05), noisy(r, n, 100, 0.05)
			e := stats.Ratio(a, b, uint64(i))
			if e.Low > 1 || e.High < 1 {
				missed++
			}
			if v := stats.Judge(e, stats.Noise(stats.Ratio(a, aa, uint64(i)))); v == stats.Slower || v == stats.Faster {
				called++
			}
		}
		t.Logf("%d pairs: the interval missed %d, called different %d, of %d", n, missed, called, all)
		if missed > all/5 || called > all/30 {
			t.Errorf("%d pairs: too many", n)
		}
	}
}

// Whole runs of nothing against nothing, as hvctl bench null makes them: judged
// with the least δ alone, hardly any calls a single one of its probes different.
func TestNullRunsCallNothingDifferent(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	const runs, probes, blocks = 25, 33, 6
	wrong := 0
	for range runs {
		called := false
		for range probes {
			sigma := 0.002 * math.Exp(4*r.Float64()) // quiet ones and loud ones
			a, b := noisy(r, blocks, 100, sigma), noisy(r, blocks, 100, sigma)
			if r.IntN(4) == 0 {
				b[r.IntN(blocks)] *= 1.5 // now and then something else happens
			}
			v := stats.Judge(stats.Ratio(a, b, r.Uint64()), stats.MinDelta)
			called = called || v == stats.Slower || v == stats.Faster
		}
		if called {
			wrong++
		}
	}
	if wrong > 2 {
		t.Errorf("%d of %d runs call something different", wrong, runs)
	}
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		name  string
		e     stats.Estimate
		delta float64
		want  stats.Verdict
	}{
		{"beyond", stats.Estimate{Ratio: 1.05, Low: 1.03, High: 1.07, SureLow: 1.03, SureHigh: 1.07, Pairs: 8}, 0.02, stats.Slower},
		{"below", stats.Estimate{Ratio: 0.9, Low: 0.89, High: 0.91, SureLow: 0.89, SureHigh: 0.91, Pairs: 8}, 0.02, stats.Faster},
		{"within", stats.Estimate{Ratio: 1, Low: 0.99, High: 1.01, SureLow: 0.99, SureHigh: 1.01, Pairs: 8}, 0.02, stats.Equal},
		{"wide", stats.Estimate{Ratio: 1.05, Low: 0.95, High: 1.2, SureLow: 0.95, SureHigh: 1.2, Pairs: 8}, 0.02, stats.Inconclusive},
		{"less than the noise", stats.Estimate{Ratio: 1.05, Low: 1.03, High: 1.07, SureLow: 1.03, SureHigh: 1.07, Pairs: 8}, 0.06, stats.Inconclusive},
		{"within a large noise", stats.Estimate{Ratio: 1, Low: 0.8, High: 1.2, SureLow: 0.8, SureHigh: 1.2, Pairs: 8}, 0.5, stats.Inconclusive},
		{"beyond for one, not for all", stats.Estimate{Ratio: 1.05, Low: 1.03, High: 1.07, SureLow: 0.9, SureHigh: 1.2, Pairs: 8}, 0.02, stats.Inconclusive},
		{"few pairs", stats.Estimate{Ratio: 2, Low: 1.9, High: 2.1, SureLow: 1.9, SureHigh: 2.1, Pairs: 3}, 0.02, stats.Inconclusive},
		{"none", stats.None, 0.02, stats.NotMeasured},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := stats.Judge(c.e, c.delta); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestRatioLeavesOutWhatHasNoLogarithm(t *testing.T) {
	if e := stats.Ratio([]float64{0, 1}, []float64{1, 2}, 1); e.Pairs != 1 || e.Ratio != 2 || e.Low != 0 {
		t.Errorf("%+v", e)
	}
	if e := stats.Ratio(nil, nil, 1); e.Pairs != 0 {
		t.Errorf("%+v", e)
	}
}

func TestSlopeAndOutliers(t *testing.T) {
	if s := stats.Slope([]float64{1, 2, 3}, []float64{10, 20, 30}); math.Abs(s-10) > 1e-9 {
		t.Error(s)
	}
	if n := stats.Outliers([]float64{1, 1.1, 0.9, 1, 1.05, 50}); n != 1 {
		t.Error(n)
	}
}
