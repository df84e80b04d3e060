package report_test

import (
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/bench/report"
	"github.com/hvctl/hvctl/internal/bench/result"
)

// Every chapter that is no matter of ratios is in both reports, and says what is
// wrong before what is right.
func TestTablesSayWhatIsWrongFirst(t *testing.T) {
	r := made(1)
	r.Facts = []result.Fact{
		{Test: "see", Name: "cwd", Target: "host", Value: "/"},
		{Test: "see", Name: "cwd", Target: "vm", Value: "/"},
		{Test: "see", Name: "computed", Target: "host", Value: "abc"},
		{Test: "see", Name: "computed", Target: "vm", Value: "xyz"},
	}
	r.Controls = []result.Control{
		{Test: "cpu quota", Target: "vm", Unit: "processors", Asked: 0.5, Measured: 0.5, Least: 0.45, Most: 0.55},
		{Test: "cpu quota", Target: "host", Unit: "processors", Asked: 0.5, Measured: 0.9, Least: 0.45, Most: 0.55},
		{Test: "memory", Target: "vm", Error: "no room"},
	}
	for n := 1; n <= 3; n++ {
		r.Density = append(r.Density, result.Crowd{Target: "vm", N: n, Available: uint64(100-10*n) << 20, PSS: uint64(8*n) << 20, Cgroup: uint64(9*n) << 20})
	}
	r.Moves = []result.Move{{Kind: result.LiveMigration, Target: "vm", Block: 1, TotalNs: 5e8, StillNs: 5e7, Bytes: 1 << 20, Kept: true}, {Kind: result.LiveMigration, Target: "vm", TotalNs: 9e9}, {Kind: result.Restart, Target: "vm", Block: 1, Error: "stuck"}}
	r.Machine = []result.Pressure{{Chapter: "probes", CPU: 0.25, Memory: -1}}
	for name, write := range map[string]func(*strings.Builder) error{
		"Markdown": func(b *strings.Builder) error { return report.Markdown(b, r) },
		"HTML":     func(b *strings.Builder) error { return report.HTML(b, r) },
	} {
		var b strings.Builder
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		at := 0
		for _, want := range []string{
			"1 of 2 facts are the same", "1 must not differ", "computed", "unexpected: vm", "cwd",
			"1 of 3 promises were kept", "failed: no room", "not kept", "kept",
			"10.0 MiB", "8.00 MiB", "live migration", "500 ms", "1 failed: stuck", "25.0 %", "not known",
		} {
			i := strings.Index(b.String()[at:], want)
			if i < 0 {
				t.Fatalf("%s: %q is missing, or not where it belongs, after\n%s", name, want, b.String()[max(0, at-300):])
			}
			at += i
		}
	}
}
