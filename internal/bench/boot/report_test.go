package boot

import (
	"bytes"
	"strings"
	"testing"
)

func made(samples ...Sample) *Result {
	return &Result{Mode: "tcg", Kernel: "minimal", Image: "i", CPUs: 1, MemoryMiB: 256, Env: map[string]string{"go": "1"}, Samples: samples}
}

func TestAddNumbersOn(t *testing.T) {
	earlier := made(Sample{Target: "a"}, Sample{Target: "b"}, Sample{Target: "a", Iteration: 1})
	r := made(Sample{Target: "a"}, Sample{Target: "b"})
	if err := r.Add(earlier); err != nil {
		t.Fatal(err)
	}
	if len(r.Samples) != 5 || r.Samples[3].Iteration != 2 || r.Samples[4].Iteration != 1 {
		t.Errorf("%+v", r.Samples)
	}
	if len(earlier.Samples) != 3 {
		t.Error("the earlier result was changed")
	}
}

func TestAddRefusesWhatWasMadeOtherwise(t *testing.T) {
	for name, change := range map[string]func(*Result){
		"mode":   func(r *Result) { r.Mode = "hw" },
		"kernel": func(r *Result) { r.Kernel = "cloud" },
		"memory": func(r *Result) { r.MemoryMiB = 128 },
		"host":   func(r *Result) { r.Env["go"] = "2" },
	} {
		r := made(Sample{Target: "a"})
		change(r)
		if err := r.Add(made(Sample{Target: "a"})); err == nil || !strings.Contains(err.Error(), "do not belong together") {
			t.Errorf("%s: %v", name, err)
		}
		if len(r.Samples) != 1 {
			t.Errorf("%s: samples were added all the same", name)
		}
	}
}

func TestFailedSamplesAreCountedNotMixedIn(t *testing.T) {
	r := made(
		Sample{Target: "a", TotalNs: 30e6}, Sample{Target: "a", TotalNs: 10e6}, Sample{Target: "a", TotalNs: 20e6},
		Sample{Target: "a", TotalNs: 1, Error: "it broke"})
	m, n := r.Median("a", func(s Sample) int64 { return s.TotalNs })
	if m != 20e6 || n != 3 {
		t.Errorf("median %d of %d", m, n)
	}
	var b bytes.Buffer
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	if f := strings.Fields(strings.Split(b.String(), "\n")[2]); len(f) != 9 || f[1] != "20.0" || f[7] != "3" || f[8] != "1" {
		t.Errorf("the table says %q", f)
	}
}
