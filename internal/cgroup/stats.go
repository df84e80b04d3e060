package cgroup

import (
	"fmt"
	"strings"
	"time"
)

// Stats is what a group and those below it use and have used. What the kernel
// or the host's arrangement does not tell is zero or nil.
type Stats struct {
	CPU      CPUStats
	Memory   MemoryStats
	PIDs     PIDStats
	IO       []IOStats // by device
	HugeTLB  map[string]HugeStats
	Pressure Pressure // v2 only
}

// CPUStats are times since the group was made.
type CPUStats struct {
	Usage, User, System time.Duration
	PerCPU              []time.Duration // v1 only
	Periods, Throttled  uint64          // of cpu.max: passed, and used up
	ThrottledTime       time.Duration
}

// MemoryStats are bytes, but for the counts.
type MemoryStats struct {
	Usage, Peak, Limit    uint64 // Limit 0: none
	SwapUsage, SwapLimit  uint64 // swap alone, on v1 too
	LimitHits             uint64 // allocations that met the limit
	OOM, OOMKill, HighHit uint64
	Stat                  map[string]uint64 // memory.stat as it is
}

// PIDStats count tasks, which are threads.
type PIDStats struct {
	Current, Peak, Limit uint64 // Limit 0: none
}

// IOStats are one block device's.
type IOStats struct {
	Major, Minor                         uint64
	ReadBytes, WriteBytes, DiscardBytes  uint64
	ReadOps, WriteOps, DiscardOperations uint64
}

// HugeStats are the huge pages of one size, in bytes.
type HugeStats struct {
	Usage, Peak, LimitHits uint64
}

// Pressure is how long processes waited for something
// (Documentation/accounting/psi.rst). Nil where the kernel does not measure.
type Pressure struct{ CPU, Memory, IO *PSI }

// PSI is one resource's pressure. Some: at least one process waited; Full: all
// of them did.
type PSI struct{ Some, Full PSILine }

// PSILine has percentages of the last 10, 60 and 300 seconds.
type PSILine struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// Stats reads the group's numbers.
func (g *Group) Stats() (Stats, error) {
	var s Stats
	for i, dir := range g.dirs {
		if dir == "" {
			continue
		}
		if g.sys.trees[i].v2 {
			s.readV2(dir, g.sys.trees[i].controllers)
			continue
		}
		for _, c := range g.sys.trees[i].controllers {
			s.readV1(dir, c)
		}
	}
	if !g.Exists() {
		return Stats{}, fmt.Errorf("%w: %s", ErrNotFound, g)
	}
	return s, nil
}

// unlimited is below what v1 shows for "no limit" (PAGE_COUNTER_MAX pages)
// and above any machine's memory.
const unlimited = 1 << 62

func limit(n uint64) uint64 {
	if n >= unlimited {
		return 0
	}
	return n
}

// value is a number of a file that may be missing.
func value(dir, file string) uint64 {
	n, err := readUint(dir, file)
	if err != nil {
		return 0
	}
	return n
}

// hugeSizes are the sizes that dir has files for, with suffix.
func hugeSizes(dir, suffix string) []string {
	var sizes []string
	for _, s := range []string{"64KB", "1MB", "2MB", "4MB", "16MB", "32MB", "256MB", "512MB", "1GB", "2GB", "16GB"} {
		if exists(dir, "hugetlb."+s+suffix) {
			sizes = append(sizes, s)
		}
	}
	return sizes
}

// readPSI reads a pressure file: lines "some avg10=0.00 avg60=... total=0".
func readPSI(dir, file string) *PSI {
	text, err := read(dir, file)
	if err != nil { // no CONFIG_PSI, psi=0, or cgroup.pressure is off
		return nil
	}
	p := &PSI{}
	for line := range strings.Lines(text) {
		var l PSILine
		var kind string
		var total uint64
		if _, err := fmt.Sscanf(line, "%s avg10=%f avg60=%f avg300=%f total=%d", &kind, &l.Avg10, &l.Avg60, &l.Avg300, &total); err != nil {
			continue
		}
		l.Total = time.Duration(total) * time.Microsecond
		switch kind {
		case "some":
			p.Some = l
		case "full":
			p.Full = l
		}
	}
	return p
}
