package cgroup

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// readV2 adds what the v2 group in dir tells (cgroup-v2.rst, "Controllers").
// cpu.stat is there without any controller; on a hybrid host the v1 hierarchy
// that has the controller is the one to ask for the rest.
func (s *Stats) readV2(dir string, controllers []string) {
	has := func(c string) bool { return slices.Contains(controllers, c) }
	if has("cpu") {
		m, _ := readFlat(dir, "cpu.stat")
		us := func(key string) time.Duration { return time.Duration(m[key]) * time.Microsecond }
		s.CPU = CPUStats{
			Usage: us("usage_usec"), User: us("user_usec"), System: us("system_usec"),
			Periods: m["nr_periods"], Throttled: m["nr_throttled"], ThrottledTime: us("throttled_usec"),
		}
	}
	if has("memory") {
		s.Memory = memoryStatsV2(dir)
	}
	if has("pids") {
		s.PIDs = PIDStats{Current: value(dir, "pids.current"), Peak: value(dir, "pids.peak"), Limit: limit(value(dir, "pids.max"))}
	}
	if has("io") {
		s.IO = ioStatsV2(dir)
	}
	if has("hugetlb") {
		for _, size := range hugeSizes(dir, ".current") {
			m, _ := readFlat(dir, "hugetlb."+size+".events")
			s.huge(size, HugeStats{Usage: value(dir, "hugetlb."+size+".current"), LimitHits: m["max"]})
		}
	}
	s.Pressure = Pressure{CPU: readPSI(dir, "cpu.pressure"), Memory: readPSI(dir, "memory.pressure"), IO: readPSI(dir, "io.pressure")}
}

func (s *Stats) huge(size string, h HugeStats) {
	if s.HugeTLB == nil {
		s.HugeTLB = map[string]HugeStats{}
	}
	s.HugeTLB[size] = h
}

func memoryStatsV2(dir string) MemoryStats {
	stat, _ := readFlat(dir, "memory.stat")
	ev, _ := readFlat(dir, "memory.events")
	return MemoryStats{
		Usage: value(dir, "memory.current"), Peak: value(dir, "memory.peak"), Limit: limit(value(dir, "memory.max")),
		SwapUsage: value(dir, "memory.swap.current"), SwapLimit: limit(value(dir, "memory.swap.max")),
		LimitHits: ev["max"], OOM: ev["oom"], OOMKill: ev["oom_kill"], HighHit: ev["high"],
		Stat: stat,
	}
}

// ioStatsV2 reads io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6".
func ioStatsV2(dir string) []IOStats {
	text, err := read(dir, "io.stat")
	if err != nil {
		return nil
	}
	var all []IOStats
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		var d IOStats
		if len(f) < 2 {
			continue // a device that was never used
		}
		if _, err := fmt.Sscanf(f[0], "%d:%d", &d.Major, &d.Minor); err != nil {
			continue
		}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			n, err := parseUint(v)
			if err != nil {
				continue
			}
			switch k {
			case "rbytes":
				d.ReadBytes = n
			case "wbytes":
				d.WriteBytes = n
			case "dbytes":
				d.DiscardBytes = n
			case "rios":
				d.ReadOps = n
			case "wios":
				d.WriteOps = n
			case "dios":
				d.DiscardOperations = n
			}
		}
		all = append(all, d)
	}
	return all
}
