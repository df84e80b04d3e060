package cgroup

import (
	"fmt"
	"strings"
	"time"
)

// userHZ is the unit of cpuacct.stat on every Linux (USER_HZ).
const userHZ = 100

// readV1 adds what controller c tells in dir (Documentation/admin-guide/cgroup-v1).
func (s *Stats) readV1(dir, c string) {
	switch c {
	case "cpuacct":
		s.CPU.Usage = time.Duration(value(dir, "cpuacct.usage"))
		m, _ := readFlat(dir, "cpuacct.stat")
		s.CPU.User = time.Duration(m["user"]) * (time.Second / userHZ)
		s.CPU.System = time.Duration(m["system"]) * (time.Second / userHZ)
		if text, err := read(dir, "cpuacct.usage_percpu"); err == nil {
			for f := range strings.FieldsSeq(text) {
				if n, err := parseUint(f); err == nil {
					s.CPU.PerCPU = append(s.CPU.PerCPU, time.Duration(n))
				}
			}
		}
	case "cpu":
		m, _ := readFlat(dir, "cpu.stat")
		s.CPU.Periods, s.CPU.Throttled = m["nr_periods"], m["nr_throttled"]
		s.CPU.ThrottledTime = time.Duration(m["throttled_time"])
	case "memory":
		s.Memory = memoryStatsV1(dir)
	case "pids":
		s.PIDs = PIDStats{Current: value(dir, "pids.current"), Peak: value(dir, "pids.peak"), Limit: limit(value(dir, "pids.max"))}
	case "blkio":
		s.IO = ioStatsV1(dir)
	case "hugetlb":
		for _, size := range hugeSizes(dir, ".usage_in_bytes") {
			f := "hugetlb." + size
			s.huge(size, HugeStats{Usage: value(dir, f+".usage_in_bytes"), Peak: value(dir, f+".max_usage_in_bytes"), LimitHits: value(dir, f+".failcnt")})
		}
	}
}

func memoryStatsV1(dir string) MemoryStats {
	stat, _ := readFlat(dir, "memory.stat")
	oom, _ := readFlat(dir, "memory.oom_control")
	m := MemoryStats{
		Usage: value(dir, "memory.usage_in_bytes"), Peak: value(dir, "memory.max_usage_in_bytes"),
		Limit: limit(value(dir, "memory.limit_in_bytes")), LimitHits: value(dir, "memory.failcnt"),
		OOM: oom["under_oom"], OOMKill: oom["oom_kill"], Stat: stat,
	}
	// memsw counts memory and swap together.
	if both := value(dir, "memory.memsw.usage_in_bytes"); both > m.Usage {
		m.SwapUsage = both - m.Usage
	}
	if both := limit(value(dir, "memory.memsw.limit_in_bytes")); both > m.Limit && m.Limit > 0 {
		m.SwapLimit = both - m.Limit
	}
	return m
}

// ioStatsV1 reads the two throttle files, which count whatever the I/O
// scheduler is: "8:0 Read 4096".
func ioStatsV1(dir string) []IOStats {
	at := map[string]int{}
	var all []IOStats
	for _, file := range []string{"blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"} {
		text, err := read(dir, file)
		if err != nil {
			continue
		}
		bytes := strings.Contains(file, "bytes")
		for line := range strings.Lines(text) {
			f := strings.Fields(line)
			if len(f) != 3 {
				continue // the total
			}
			i, ok := at[f[0]]
			if !ok {
				var d IOStats
				if _, err := fmt.Sscanf(f[0], "%d:%d", &d.Major, &d.Minor); err != nil {
					continue
				}
				i = len(all)
				at[f[0]] = i
				all = append(all, d)
			}
			n, err := parseUint(f[2])
			if err != nil {
				continue
			}
			d := &all[i]
			switch {
			case f[1] == "Read" && bytes:
				d.ReadBytes = n
			case f[1] == "Write" && bytes:
				d.WriteBytes = n
			case f[1] == "Discard" && bytes:
				d.DiscardBytes = n
			case f[1] == "Read":
				d.ReadOps = n
			case f[1] == "Write":
				d.WriteOps = n
			case f[1] == "Discard":
				d.DiscardOperations = n
			}
		}
	}
	return all
}
