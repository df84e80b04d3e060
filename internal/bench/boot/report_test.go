package boot

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/bench/record"
)

func made(samples ...Sample) *Result {
	return &Result{Header: record.Header{Mode: "tcg", Env: map[string]string{"go": "1"}}, Kernel: "minimal", Image: "i", CPUs: 1, MemoryMiB: 256, Samples: samples}
}

func TestFailedSamplesAreCountedNotMixedIn(t *testing.T) {
	r := made(
		Sample{Target: "a", TotalNs: 30e6}, Sample{Target: "a", TotalNs: 10e6}, Sample{Target: "a", TotalNs: 20e6},
		Sample{Target: "a", TotalNs: 1, Error: "it broke"})
	got := r.Spread("a", func(s Sample) int64 { return s.TotalNs })
	if want := (record.Spread{Min: 10e6, Median: 20e6, P95: 30e6, Max: 30e6, N: 3}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if none := r.Spread("b", func(s Sample) int64 { return s.TotalNs }); none != (record.Spread{}) {
		t.Errorf("of no samples: %+v", none)
	}
	var b bytes.Buffer
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	if f := strings.Fields(strings.Split(b.String(), "\n")[2]); len(f) != 11 || f[1] != "20.0" || f[3] != "10-30" || f[9] != "3" || f[10] != "1" {
		t.Errorf("the table says %q", f)
	}
}
