package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// limitFlag is a flag of update that is one field of the resources.
type limitFlag struct {
	name, help string
	bytes      bool // takes 512m
	set        func(r *specs.LinuxResources, text string, n int64)
}

func cpu(r *specs.LinuxResources) *specs.LinuxCPU {
	if r.CPU == nil {
		r.CPU = &specs.LinuxCPU{}
	}
	return r.CPU
}

func memory(r *specs.LinuxResources) *specs.LinuxMemory {
	if r.Memory == nil {
		r.Memory = &specs.LinuxMemory{}
	}
	return r.Memory
}

var limitFlags = []limitFlag{
	{"blkio-weight", "weight of its I/O, 10 to 1000", false, func(r *specs.LinuxResources, _ string, n int64) {
		r.BlockIO = &specs.LinuxBlockIO{Weight: new(uint16(n))}
	}},
	{"cpu-period", "period of the CPU quota, in µs", false, func(r *specs.LinuxResources, _ string, n int64) { cpu(r).Period = new(uint64(n)) }},
	{"cpu-quota", "CPU time within a period, in µs", false, func(r *specs.LinuxResources, _ string, n int64) { cpu(r).Quota = &n }},
	{"cpu-burst", "unused CPU time it may save, in µs", false, func(r *specs.LinuxResources, _ string, n int64) { cpu(r).Burst = new(uint64(n)) }},
	{"cpu-share", "relative CPU time", false, func(r *specs.LinuxResources, _ string, n int64) { cpu(r).Shares = new(uint64(n)) }},
	{"cpu-rt-period", "period of the real-time quota, in µs", false, func(r *specs.LinuxResources, _ string, n int64) { cpu(r).RealtimePeriod = new(uint64(n)) }},
	{"cpu-rt-runtime", "real-time CPU time within a period, in µs", false, func(r *specs.LinuxResources, _ string, n int64) { cpu(r).RealtimeRuntime = &n }},
	{"cpu-idle", "1: only when nobody else wants to run", false, func(r *specs.LinuxResources, _ string, n int64) { cpu(r).Idle = &n }},
	{"memory", "most memory, in bytes or as 512m", true, func(r *specs.LinuxResources, _ string, n int64) { memory(r).Limit = &n }},
	{"memory-reservation", "memory it keeps under pressure", true, func(r *specs.LinuxResources, _ string, n int64) { memory(r).Reservation = &n }},
	{"memory-swap", "most memory and swap together; -1: no limit", true, func(r *specs.LinuxResources, _ string, n int64) { memory(r).Swap = &n }},
	{"pids-limit", "most threads; -1: no limit", false, func(r *specs.LinuxResources, _ string, n int64) { r.Pids = &specs.LinuxPids{Limit: &n} }},
}

func cmdUpdate(a *app) (func([]string) (int, error), flagSet) {
	file := ""
	given := &specs.LinuxResources{}
	var later []func()
	var s flagSet
	s.text(&file, "resources", "r", "file with linux.resources as JSON; - is standard input")
	for _, l := range limitFlags {
		s.add(flag{name: l.name, help: l.help, set: func(v string) error {
			n, err := parseAmount(v, l.bytes)
			later = append(later, func() { l.set(given, v, n) })
			return err
		}})
	}
	for _, l := range []struct {
		name, help string
		set        func(string)
	}{
		{"cpuset-cpus", "processors, such as 0-3,8", func(v string) { cpu(given).Cpus = v }},
		{"cpuset-mems", "memory nodes, such as 0-1", func(v string) { cpu(given).Mems = v }},
	} {
		s.add(flag{name: l.name, help: l.help, set: func(v string) error {
			later = append(later, func() { l.set(v) })
			return nil
		}})
	}
	s.ignored("kernel-memory", "ignored: the kernel has no such limit any more", false)
	s.ignored("kernel-memory-tcp", "ignored: the kernel has no such limit any more", false)
	return func(args []string) (int, error) {
		r, err := a.runtime()
		if err != nil {
			return 1, err
		}
		if r.HasScope(args[0]) { // before standard input is read, which comes once
			if _, err := manager(); err != nil {
				return 1, err
			}
		}
		if file != "" {
			if err := readJSON("--resources", file, given); err != nil {
				return 1, err
			}
		}
		for _, set := range later { // flags win over the file
			set()
		}
		if a.holdsVM(args[0]) {
			if err := checkVMUpdate(given, a.member(args[0]) != ""); err != nil {
				return 1, err
			}
		}
		return 0, r.Update(context.Background(), args[0], given)
	}, s
}

// parseAmount reads a number, which may have a unit where bytes are counted.
func parseAmount(text string, bytes bool) (int64, error) {
	digits, shift := text, 0
	if bytes {
		lower := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(text), "b"), "i")
		if i := strings.IndexAny(lower, "kmgt"); i >= 0 && i == len(lower)-1 {
			shift = 10 * (strings.IndexByte("kmgt", lower[i]) + 1)
			lower = lower[:i]
		}
		digits = lower
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n<<shift>>shift != n {
		return 0, fmt.Errorf("%q is not a number in range", text)
	}
	return n << shift, nil
}
