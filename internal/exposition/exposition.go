package exposition

import (
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/workload"
)

// ContentType is that of what Write writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Sample is one instance at one moment.
type Sample struct {
	ID, Name, Backend, Image string

	Stats workload.Stats
	// Migration is that of the latest migration away; nil: the backend has none.
	Migration *workload.MigrationStatus
}

// Write writes samples of different instances.
func Write(w io.Writer, samples []Sample) error {
	f := families{}
	for _, s := range samples {
		s.add(f)
	}
	return f.write(w)
}

func (s Sample) labels(more ...label) []label {
	return append([]label{{"id", s.ID}, {"name", s.Name}}, more...)
}

func (s Sample) add(f families) {
	f.add("hvctl_instance_info", "gauge", "An instance that runs; the value is 1.", 1, s.labels(label{"backend", s.Backend}, label{"image", s.Image})...)
	t := s.Stats
	for _, v := range []struct {
		name, kind, help string
		value            float64
	}{
		{"hvctl_cpu_seconds_total", "counter", "Processor time of the instance, its owner included.", float64(t.CPUNanoseconds) / 1e9},
		{"hvctl_memory_bytes", "gauge", "Memory of the instance, its owner included.", float64(t.MemoryBytes)},
		{"hvctl_processes", "gauge", "Processes inside.", float64(t.PIDs)},
		{"hvctl_network_receive_bytes_total", "counter", "Bytes that the instance received.", float64(t.NetRxBytes)},
		{"hvctl_network_transmit_bytes_total", "counter", "Bytes that the instance sent.", float64(t.NetTxBytes)},
		{"hvctl_disk_read_bytes_total", "counter", "Bytes that the instance read from disks.", float64(t.BlockReadBytes)},
		{"hvctl_disk_written_bytes_total", "counter", "Bytes that the instance wrote to disks.", float64(t.BlockWriteBytes)},
	} {
		f.add(v.name, v.kind, v.help, v.value, s.labels()...)
	}
	if t.MemoryLimitBytes > 0 {
		f.add("hvctl_memory_limit_bytes", "gauge", "The most memory that the instance may have.", float64(t.MemoryLimitBytes), s.labels()...)
	}
	if g := t.Cgroup; g != nil {
		f.add("hvctl_cgroup_throttled_seconds_total", "counter", "Time for which the instance was kept from running by its limit.", float64(g.ThrottledNanoseconds)/1e9, s.labels()...)
		f.add("hvctl_cgroup_memory_peak_bytes", "gauge", "The most memory that the instance's cgroup was charged with.", float64(g.MemoryPeakBytes), s.labels()...)
		f.add("hvctl_cgroup_oom_kills_total", "counter", "Processes that the host killed for want of memory.", float64(g.OOMKills), s.labels()...)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Counters)) {
		s.counter(f, name, float64(t.Counters[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(t.Histograms)) {
		h := t.Histograms[name]
		device, what, _ := strings.Cut(name, ".")
		f.histogram("hvctl_device_"+clean(what)+"_seconds", "How long requests took.", h.Counts, h.SumNanoseconds, s.labels(label{"device", device})...)
	}
	if s.Migration != nil {
		s.migration(f)
	}
}

// counter puts one of the backend's counters under a name of the format's:
//
//	exit_pio_total            hvctl_vmm_exits_total{reason="pio"}
//	kvm.halt_exits_total      hvctl_kvm_exits_total{reason="halt"}
//	kvm.exits_total           hvctl_kvm_all_exits_total
//	kvm.irq_injections_total  hvctl_kvm_irq_injections_total
//	disk0.kicks_total         hvctl_device_kicks_total{device="disk0"}
//	anything else             hvctl_<name>
func (s Sample) counter(f families, name string, v float64) {
	kind := "gauge"
	if strings.HasSuffix(name, "_total") {
		kind = "counter"
	}
	if reason, ok := between(name, "exit_", "_total"); ok {
		f.add("hvctl_vmm_exits_total", kind, "Exits from the guest to the VMM, by reason.", v, s.labels(label{"reason", reason})...)
		return
	}
	if reason, ok := between(name, "kvm.", "_exits_total"); ok {
		f.add("hvctl_kvm_exits_total", kind, "Exits from the guest to KVM, by reason; some have more than one.", v, s.labels(label{"reason", reason})...)
		return
	}
	if name == "kvm.exits_total" { // beside its parts it would count twice in a sum
		name = "kvm.all_exits_total"
	}
	from, what, dotted := strings.Cut(name, ".")
	switch {
	case !dotted:
		f.add("hvctl_"+clean(name), kind, "A counter of the backend.", v, s.labels()...)
	case from == "kvm":
		f.add("hvctl_kvm_"+clean(what), kind, "A statistic of KVM, over all vCPUs.", v, s.labels()...)
	default:
		f.add("hvctl_device_"+clean(what), kind, "A counter of a device.", v, s.labels(label{"device", from})...)
	}
}

func between(s, before, after string) (string, bool) {
	s, ok := strings.CutPrefix(s, before)
	if !ok {
		return "", false
	}
	s, ok = strings.CutSuffix(s, after)
	return s, ok && s != ""
}

// clean makes a part of a metric's name of s.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, s)
}

// progress is what is taken of a migration's report.
type progress struct {
	Rounds []struct {
		Pages uint64 `json:"pages"`
		Bytes uint64 `json:"bytes"`
		Dirty uint64 `json:"dirty_pages"`
	} `json:"rounds"`
	Blackout struct {
		Total int64 `json:"total_ns"`
	} `json:"blackout"`
}

func (s Sample) migration(f families) {
	m := s.Migration
	f.add("hvctl_migration_state", "gauge", "The state of the latest migration away; the value is 1.", 1, s.labels(label{"state", string(m.State)})...)
	var p progress
	if len(m.Report) == 0 || json.Unmarshal(m.Report, &p) != nil {
		return // what is not understood is not shown
	}
	var pages, bytes, dirty uint64
	for _, r := range p.Rounds {
		pages, bytes, dirty = pages+r.Pages, bytes+r.Bytes, r.Dirty
	}
	for _, v := range []struct {
		name, help string
		value      float64
	}{
		{"hvctl_migration_rounds", "Rounds of the latest migration away.", float64(len(p.Rounds))},
		{"hvctl_migration_sent_pages", "Pages that it sent in these rounds.", float64(pages)},
		{"hvctl_migration_sent_bytes", "Bytes that it sent in these rounds.", float64(bytes)},
		{"hvctl_migration_dirty_pages", "Pages that the guest wrote in the last round.", float64(dirty)},
		{"hvctl_migration_blackout_seconds", "For how long the guest stood still.", float64(p.Blackout.Total) / 1e9},
	} {
		f.add(v.name, "gauge", v.help, v.value, s.labels()...)
	}
}
