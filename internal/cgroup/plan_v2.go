package cgroup

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// planV2 turns resources into v2 files. memory is the limit in force when r
// has none of its own (an update of swap alone); nil: not known.
func planV2(r *specs.LinuxResources, memory *int64) (*plan, error) {
	if err := checkResources(r); err != nil {
		return nil, err
	}
	p := &plan{}
	for _, step := range []func(*specs.LinuxResources) error{p.cpuV2, func(r *specs.LinuxResources) error { return p.memoryV2(r, memory) }, p.ioV2, p.networkV2} {
		if err := step(r); err != nil {
			return nil, err
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		p.add(setting{field: "linux.resources.pids.limit", controller: "pids", file: "pids.max", value: limitText(*r.Pids.Limit)})
	}
	for _, h := range r.HugepageLimits {
		f, v := "hugetlb."+h.Pagesize, strconv.FormatUint(h.Limit, 10)
		p.add(setting{field: "linux.resources.hugepageLimits", controller: "hugetlb", file: f + ".max", value: v})
		p.add(setting{field: "linux.resources.hugepageLimits", controller: "hugetlb", file: f + ".rsvd.max", value: v, optional: true})
	}
	p.rdma(r.Rdma)
	return p, p.unified(r.Unified) // last: it has the last word
}

func (p *plan) cpuV2(r *specs.LinuxResources) error {
	c := r.CPU
	if c == nil {
		return nil
	}
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		return unsupported("linux.resources.cpu.realtimeRuntime", "cgroup v2 does not divide realtime bandwidth")
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		return unsupported("linux.resources.cpu.realtimePeriod", "cgroup v2 does not divide realtime bandwidth")
	}
	cpu := func(field, file, value string) setting {
		return setting{field: "linux.resources.cpu." + field, controller: "cpu", file: file, value: value}
	}
	idle := c.Idle != nil && *c.Idle == 1
	if c.Idle != nil {
		p.add(cpu("idle", "cpu.idle", strconv.FormatInt(*c.Idle, 10)))
	}
	switch {
	case c.Shares == nil || *c.Shares == 0:
	case idle:
		p.note("linux.resources.cpu.shares is ignored: with cpu.idle the kernel keeps the weight itself")
	default:
		p.add(cpu("shares", "cpu.weight", strconv.FormatUint(WeightFromShares(*c.Shares), 10)))
	}
	if c.Quota != nil && *c.Quota != 0 || c.Period != nil && *c.Period != 0 {
		s := cpu("quota", "cpu.max", cpuMax(c.Quota, c.Period))
		s.pair = c.Burst != nil // the burst may not exceed the quota, before or after
		p.add(s)
	}
	if c.Burst != nil {
		p.add(cpu("burst", "cpu.max.burst", strconv.FormatUint(*c.Burst, 10)))
	}
	p.cpuset(c)
	return nil
}

// cpuset is the same on v1 and v2.
func (p *plan) cpuset(c *specs.LinuxCPU) {
	if c.Cpus != "" {
		p.add(setting{field: "linux.resources.cpu.cpus", controller: "cpuset", file: "cpuset.cpus", value: c.Cpus})
	}
	if c.Mems != "" {
		p.add(setting{field: "linux.resources.cpu.mems", controller: "cpuset", file: "cpuset.mems", value: c.Mems})
	}
}

func (p *plan) memoryV2(r *specs.LinuxResources, memory *int64) error {
	m := r.Memory
	if m == nil {
		return nil
	}
	if m.Swappiness != nil {
		return unsupported("linux.resources.memory.swappiness", "cgroup v2 has none; use the unified key memory.swap.high, or vm.swappiness of the host")
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		return unsupported("linux.resources.memory.disableOOMKiller", "cgroup v2 cannot turn it off; use the unified key memory.high to throttle before")
	}
	if m.UseHierarchy != nil && !*m.UseHierarchy {
		return unsupported("linux.resources.memory.useHierarchy", "cgroup v2 is always hierarchical")
	}
	if m.KernelTCP != nil && *m.KernelTCP > 0 {
		return unsupported("linux.resources.memory.kernelTCP", "cgroup v2 counts socket memory as memory")
	}
	p.kernelMemory(m)
	mem := func(field, file string, n int64) setting {
		return setting{field: "linux.resources.memory." + field, controller: "memory", file: file, value: limitText(n)}
	}
	if m.Limit != nil && *m.Limit != 0 {
		memory = m.Limit
	}
	n, ok, err := swapMax(memory, m.Swap)
	if err != nil {
		return err
	}
	if ok {
		s := mem("swap", "memory.swap.max", n)
		s.optional = n <= 0 // a kernel without swap has none to limit
		p.add(s)
	}
	if m.Limit != nil && *m.Limit != 0 {
		p.add(mem("limit", "memory.max", *m.Limit))
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		p.add(mem("reservation", "memory.low", *m.Reservation))
	}
	return nil
}

func (p *plan) ioV2(r *specs.LinuxResources) error {
	b := r.BlockIO
	if b == nil {
		return nil
	}
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		return unsupported("linux.resources.blockIO.leafWeight", "cgroup v2 groups with processes have no children")
	}
	weight := func(field, prefix string, w uint16) setting {
		return setting{
			field: "linux.resources.blockIO." + field, controller: "io",
			file: "io.weight", value: prefix + strconv.FormatUint(ioWeight(w), 10),
			altFile: "io.bfq.weight", altValue: prefix + strconv.FormatUint(uint64(w), 10),
		}
	}
	if b.Weight != nil && *b.Weight != 0 {
		p.add(weight("weight", "default ", *b.Weight))
	}
	for _, d := range b.WeightDevice {
		if d.LeafWeight != nil && *d.LeafWeight != 0 {
			return unsupported("linux.resources.blockIO.weightDevice.leafWeight", "cgroup v2 groups with processes have no children")
		}
		if d.Weight != nil && *d.Weight != 0 {
			p.add(weight("weightDevice", device(d.LinuxBlockIODevice)+" ", *d.Weight))
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			rate := "max"
			if d.Rate > 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			p.add(setting{
				field: "linux.resources.blockIO." + t.field, controller: "io",
				file: "io.max", value: fmt.Sprintf("%s %s=%s", device(d.LinuxBlockIODevice), t.v2, rate),
			})
		}
	}
	return nil
}

func (p *plan) networkV2(r *specs.LinuxResources) error {
	if n := r.Network; n != nil && (n.ClassID != nil && *n.ClassID != 0 || len(n.Priorities) > 0) {
		return unsupported("linux.resources.network", "cgroup v2 marks no packets; match the cgroup's path with nftables (socket cgroupv2)")
	}
	return nil
}

// unified takes v2 files as they are: the map has their names and contents.
func (p *plan) unified(m map[string]string) error {
	for _, file := range slices.Sorted(maps.Keys(m)) {
		field := fmt.Sprintf("linux.resources.unified[%q]", file)
		controller, rest, ok := strings.Cut(file, ".")
		if !ok || controller == "" || rest == "" || strings.ContainsAny(file, "/\x00\n") {
			return valueError(field, "want the name of a control file, such as memory.high")
		}
		if controller == "cgroup" && file != "cgroup.max.depth" && file != "cgroup.max.descendants" {
			return valueError(field, "this file is not a limit")
		}
		for line := range strings.Lines(m[file]) { // one request per write(2)
			if line = strings.TrimSuffix(line, "\n"); line != "" {
				p.add(setting{field: field, controller: controller, file: file, value: line})
			}
		}
	}
	return nil
}
