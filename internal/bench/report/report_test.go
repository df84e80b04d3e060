package report_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/bench/report"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

// made is a run in which vm costs so much more than the host.
func made(factor float64) *result.Result {
	r := &result.Result{Schema: result.Schema, Mode: "tcg-icount", Seed: 1, Plan: result.Plan{Targets: []string{"host", "vm"}, Copy: "host'", Blocks: 6}}
	rnd := rand.New(rand.NewPCG(5, 5))
	for b := range 7 {
		for _, t := range []string{"host'", "host", "vm"} {
			v := 100 * math.Exp(0.002*rnd.NormFloat64())
			if t == "vm" {
				v *= factor
			}
			r.Samples = append(r.Samples, result.Sample{Chapter: "micro", Probe: "syscall", Target: t, Block: b, Value: v, Ops: 10, Warmup: b == 0})
		}
	}
	return r
}

func TestPlantedSlowdownIsFoundAndNothingElse(t *testing.T) {
	for factor, want := range map[float64]stats.Verdict{1.05: stats.Slower, 1: stats.Equal, 0.95: stats.Faster} {
		rows, err := report.Rows(made(factor))
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			if row.Target == "vm" && row.Verdict != want || row.Target == "host'" && row.Verdict != stats.Equal {
				t.Errorf("%v: %s %s %+v", factor, row.Target, row.Verdict, row.Estimate)
			}
		}
	}
}

func TestReportSaysWhatIsWrong(t *testing.T) {
	r := made(1)
	r.Partial = "interrupted after 3"
	r.Samples = append(r.Samples, result.Sample{Chapter: "lifecycle", Probe: "instance", Target: "vm", Error: "no\nkernel"})
	var b strings.Builder
	if err := report.Markdown(&b, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"EMULATED", "Partial:** interrupted", "vm failed** in 1 samples, first: no kernel", "| micro | vm | 0 | 0 | 1 |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
}

func TestCompareRefusesOtherModesAndFindsRegressions(t *testing.T) {
	other := made(1)
	other.Mode = "pvm"
	if _, err := report.Compare(made(1), other, 0); err == nil {
		t.Error("modes were mixed")
	}
	changes, err := report.Compare(made(1), made(1.05), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		if c.Target == "vm" && c.Verdict != stats.Slower || c.Target == "host" && c.Verdict != stats.Equal {
			t.Errorf("%+v", c)
		}
	}
}
