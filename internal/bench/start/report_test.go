package start

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/bench/record"
)

func TestFailedSamplesAreCountedNotMixedIn(t *testing.T) {
	r := &Result{Header: record.Header{Mode: "hw"}, Samples: []Sample{
		{Target: "a", Scenario: Run, TotalNs: 30e6},
		{Target: "a", Scenario: Run, TotalNs: 10e6},
		{Target: "a", Scenario: Run, TotalNs: 20e6},
		{Target: "a", Scenario: Run, TotalNs: 1, Error: "it broke"},
		{Target: "a", Scenario: Exec, TotalNs: 5e6},
	}}
	got := r.Spread("a", Run, func(s Sample) int64 { return s.TotalNs })
	if want := (record.Spread{Min: 10e6, Median: 20e6, P95: 30e6, Max: 30e6, N: 3}); got != want || r.failed("a", Run) != 1 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if none := r.Spread("b", Run, func(s Sample) int64 { return s.TotalNs }); none != (record.Spread{}) {
		t.Errorf("of no samples: %+v", none)
	}
	var b bytes.Buffer
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "20.00 ms") || !strings.Contains(b.String(), "run of /bin/true, execution mode hw") {
		t.Errorf("the table says %q", b.String())
	}
}
