package exposition_test

import (
	"encoding/json"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/exposition"
	"github.com/hvctl/hvctl/internal/workload"
)

func write(t testing.TB, samples ...exposition.Sample) string {
	t.Helper()
	var b strings.Builder
	if err := exposition.Write(&b, samples); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var sample = exposition.Sample{
	ID: "abc", Name: "web", Backend: "vm", Image: "debian",
	Stats: workload.Stats{
		CPUNanoseconds: 1500000000, MemoryBytes: 64 << 20, MemoryLimitBytes: 512 << 20,
		Counters: map[string]uint64{
			"exit_pio_total": 7, "kvm.halt_exits_total": 8, "kvm.exits_total": 9, "kvm.irq_injections_total": 10,
			"root.kicks_total": 11, "net0.kicks_total": 12, "balloon.actual_bytes": 13, "odd-name": 14,
		},
		Histograms: map[string]workload.Histogram{"root.read_latency": {Counts: []uint64{1, 0, 2, 4}, SumNanoseconds: 5e6}},
		Cgroup:     &workload.CgroupStats{ThrottledNanoseconds: 250e6},
	},
	Migration: &workload.MigrationStatus{State: workload.MigrationOver, Report: json.RawMessage(
		`{"rounds":[{"pages":5,"bytes":100,"dirty_pages":3},{"pages":3,"bytes":60,"dirty_pages":1}],"blackout":{"total_ns":40000000}}`)},
}

func TestEverythingHasItsName(t *testing.T) {
	got := write(t, sample)
	for _, want := range []string{
		`hvctl_instance_info{id="abc",name="web",backend="vm",image="debian"} 1`,
		`hvctl_cpu_seconds_total{id="abc",name="web"} 1.5`,
		`hvctl_memory_bytes{id="abc",name="web"} 6.7108864e+07`,
		`hvctl_vmm_exits_total{id="abc",name="web",reason="pio"} 7`,
		`hvctl_kvm_exits_total{id="abc",name="web",reason="halt"} 8`,
		`hvctl_kvm_all_exits_total{id="abc",name="web"} 9`,
		`hvctl_kvm_irq_injections_total{id="abc",name="web"} 10`,
		`hvctl_device_kicks_total{id="abc",name="web",device="net0"} 12`,
		`hvctl_device_actual_bytes{id="abc",name="web",device="balloon"} 13`,
		`hvctl_odd_name{id="abc",name="web"} 14`,
		`# TYPE hvctl_device_kicks_total counter`,
		`# TYPE hvctl_device_actual_bytes gauge`,
		`hvctl_cgroup_throttled_seconds_total{id="abc",name="web"} 0.25`,
		`hvctl_migration_state{id="abc",name="web",state="over"} 1`,
		`hvctl_migration_sent_bytes{id="abc",name="web"} 160`,
		`hvctl_migration_dirty_pages{id="abc",name="web"} 1`,
		`hvctl_migration_blackout_seconds{id="abc",name="web"} 0.04`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no line %s", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestHistogramsAreCumulative(t *testing.T) {
	got := write(t, sample)
	i := strings.Index(got, "hvctl_device_read_latency_seconds_bucket")
	if i < 0 {
		t.Fatal(got)
	}
	want := `hvctl_device_read_latency_seconds_bucket{id="abc",name="web",device="root",le="1e-06"} 1
hvctl_device_read_latency_seconds_bucket{id="abc",name="web",device="root",le="2e-06"} 1
hvctl_device_read_latency_seconds_bucket{id="abc",name="web",device="root",le="4e-06"} 3
hvctl_device_read_latency_seconds_bucket{id="abc",name="web",device="root",le="+Inf"} 7
hvctl_device_read_latency_seconds_sum{id="abc",name="web",device="root"} 0.005
hvctl_device_read_latency_seconds_count{id="abc",name="web",device="root"} 7
`
	if !strings.HasPrefix(got[i:], want) {
		t.Errorf("histogram is\n%s", got[i:min(len(got), i+len(want))])
	}
}

// parse checks the format as far as a scraper does, and returns the families in
// order.
func parse(t testing.TB, text string) (names []string) {
	t.Helper()
	series := regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-z]+="([^"\\\n]|\\["\\n])*"(,[a-z]+="([^"\\\n]|\\["\\n])*")*\})? (\S+)$`)
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ := strings.Cut(rest, " ")
			names = append(names, name)
			continue
		}
		if strings.HasPrefix(line, "# HELP ") {
			continue
		}
		m := series.FindStringSubmatch(line)
		if m == nil || len(names) == 0 || !strings.HasPrefix(m[1], names[len(names)-1]) {
			t.Fatalf("line %q in family %v", line, names)
		}
		if v, err := strconv.ParseFloat(m[6], 64); err != nil || math.IsNaN(v) {
			t.Fatalf("value of %q: %v", line, err)
		}
		if key := m[1] + m[2]; seen[key] {
			t.Fatalf("series %s is there twice", key)
		} else {
			seen[key] = true
		}
	}
	return names
}

func TestFamiliesOfSeveralInstancesStayTogether(t *testing.T) {
	other := sample
	other.ID, other.Name = "def", "back\\slash \"quoted\"\nand a line"
	names := parse(t, write(t, sample, other))
	seen := map[string]bool{}
	for _, n := range names {
		if seen[n] {
			t.Errorf("family %s is there twice", n)
		}
		seen[n] = true
	}
	if len(names) < 20 {
		t.Errorf("only %d families", len(names))
	}
}

// What an owner says comes from a process that a guest talks to.
func FuzzWrite(f *testing.F) {
	f.Add("disk0.read_latency", "web", uint64(3))
	f.Add("exit__total", "\x00\"", uint64(1))
	f.Add("kvm._exits_total", "\\", uint64(0))
	f.Fuzz(func(t *testing.T, counter, name string, n uint64) {
		s := exposition.Sample{ID: "i", Name: name, Stats: workload.Stats{
			Counters:   map[string]uint64{counter: n},
			Histograms: map[string]workload.Histogram{"x." + counter: {Counts: []uint64{n & 0xffff}}},
		}}
		text := write(t, s)
		if strings.Contains(text, "\n\n") {
			t.Error("an empty line")
		}
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, "hvctl_") {
				t.Fatalf("line %q", line)
			}
		}
	})
}
