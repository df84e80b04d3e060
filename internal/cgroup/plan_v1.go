package cgroup

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// planV1 turns resources into v1 files. In hybrid mode the controllers that
// live on the v2 tree get planV2's settings instead (see planFor).
func planV1(r *specs.LinuxResources) (*plan, error) {
	if err := checkResources(r); err != nil {
		return nil, err
	}
	p := &plan{}
	p.cpuV1(r.CPU)
	if err := p.memoryV1(r.Memory); err != nil {
		return nil, err
	}
	p.blkioV1(r.BlockIO)
	if r.Pids != nil && r.Pids.Limit != nil {
		p.add(setting{field: "linux.resources.pids.limit", controller: "pids", file: "pids.max", value: limitText(*r.Pids.Limit)})
	}
	for _, h := range r.HugepageLimits {
		f, v := "hugetlb."+h.Pagesize, strconv.FormatUint(h.Limit, 10)
		p.add(setting{field: "linux.resources.hugepageLimits", controller: "hugetlb", file: f + ".limit_in_bytes", value: v})
		p.add(setting{field: "linux.resources.hugepageLimits", controller: "hugetlb", file: f + ".rsvd.limit_in_bytes", value: v, optional: true})
	}
	if n := r.Network; n != nil {
		if n.ClassID != nil {
			p.add(setting{field: "linux.resources.network.classID", controller: "net_cls", file: "net_cls.classid", value: strconv.FormatUint(uint64(*n.ClassID), 10)})
		}
		for _, i := range n.Priorities {
			p.add(setting{field: "linux.resources.network.priorities", controller: "net_prio", file: "net_prio.ifpriomap", value: fmt.Sprintf("%s %d", i.Name, i.Priority)})
		}
	}
	p.rdma(r.Rdma)
	return p, nil
}

func (p *plan) cpuV1(c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	add := func(field, file, value string, pair bool) {
		p.add(setting{field: "linux.resources.cpu." + field, controller: "cpu", file: file, value: value, pair: pair})
	}
	if c.Idle != nil {
		add("idle", "cpu.idle", strconv.FormatInt(*c.Idle, 10), false)
	}
	if c.Shares != nil && *c.Shares != 0 {
		if c.Idle != nil && *c.Idle == 1 {
			p.note("linux.resources.cpu.shares is ignored: with cpu.idle the kernel keeps the weight itself")
		} else {
			add("shares", "cpu.shares", strconv.FormatUint(max(*c.Shares, 2), 10), false)
		}
	}
	quota := c.Quota != nil && *c.Quota != 0
	if c.Period != nil && *c.Period != 0 {
		add("period", "cpu.cfs_period_us", strconv.FormatUint(*c.Period, 10), quota)
	}
	if quota {
		add("quota", "cpu.cfs_quota_us", strconv.FormatInt(max(*c.Quota, -1), 10), c.Burst != nil)
	}
	if c.Burst != nil {
		add("burst", "cpu.cfs_burst_us", strconv.FormatUint(*c.Burst, 10), false)
	}
	runtime := c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		add("realtimePeriod", "cpu.rt_period_us", strconv.FormatUint(*c.RealtimePeriod, 10), runtime)
	}
	if runtime {
		add("realtimeRuntime", "cpu.rt_runtime_us", strconv.FormatInt(*c.RealtimeRuntime, 10), false)
	}
	p.cpuset(c)
}

func (p *plan) memoryV1(m *specs.LinuxMemory) error {
	if m == nil {
		return nil
	}
	add := func(field, file string, n int64, pair bool) {
		p.add(setting{field: "linux.resources.memory." + field, controller: "memory", file: file, value: strconv.FormatInt(n, 10), pair: pair})
	}
	limit, swap := m.Limit != nil && *m.Limit != 0, m.Swap != nil && *m.Swap != 0
	if limit && swap && *m.Limit > 0 && *m.Swap > 0 && *m.Swap < *m.Limit {
		return valueError("linux.resources.memory.swap", "%d is less than the memory limit %d, which it includes", *m.Swap, *m.Limit)
	}
	if m.UseHierarchy != nil && *m.UseHierarchy {
		p.add(setting{field: "linux.resources.memory.useHierarchy", controller: "memory", file: "memory.use_hierarchy", value: "1", optional: true})
	}
	if limit {
		add("limit", "memory.limit_in_bytes", *m.Limit, swap)
	}
	if swap {
		add("swap", "memory.memsw.limit_in_bytes", *m.Swap, false)
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		add("reservation", "memory.soft_limit_in_bytes", *m.Reservation, false)
	}
	p.kernelMemory(m)
	if m.KernelTCP != nil && *m.KernelTCP != 0 {
		add("kernelTCP", "memory.kmem.tcp.limit_in_bytes", *m.KernelTCP, false)
	}
	if m.Swappiness != nil {
		add("swappiness", "memory.swappiness", int64(*m.Swappiness), false)
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		add("disableOOMKiller", "memory.oom_control", 1, false)
	}
	return nil
}

func (p *plan) blkioV1(b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	add := func(field, file, value, alt string) {
		p.add(setting{field: "linux.resources.blockIO." + field, controller: "blkio", file: file, value: value, altFile: alt, altValue: value})
	}
	if b.Weight != nil && *b.Weight != 0 {
		add("weight", "blkio.weight", strconv.FormatUint(uint64(*b.Weight), 10), "blkio.bfq.weight")
	}
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		add("leafWeight", "blkio.leaf_weight", strconv.FormatUint(uint64(*b.LeafWeight), 10), "")
	}
	for _, d := range b.WeightDevice {
		if d.Weight != nil && *d.Weight != 0 {
			add("weightDevice", "blkio.weight_device", fmt.Sprintf("%s %d", device(d.LinuxBlockIODevice), *d.Weight), "blkio.bfq.weight_device")
		}
		if d.LeafWeight != nil && *d.LeafWeight != 0 {
			add("weightDevice.leafWeight", "blkio.leaf_weight_device", fmt.Sprintf("%s %d", device(d.LinuxBlockIODevice), *d.LeafWeight), "")
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			add(t.field, t.v1, fmt.Sprintf("%s %d", device(d.LinuxBlockIODevice), d.Rate), "")
		}
	}
}

// planFor is the plan for what is mounted: v2 files for controllers of a v2
// tree, v1 files for the others.
func planFor(s *System, r *specs.LinuxResources, memory *int64) (*plan, error) {
	switch {
	case s.mode == V2:
		return planV2(r, memory)
	case s.mode == Hybrid:
		return planHybrid(s, r, memory)
	case len(r.Unified) > 0:
		return nil, unsupported("linux.resources.unified", "this host has cgroup v1 only; use the fields of their own")
	}
	return planV1(r)
}

// onV2 are the fields of one controller, moved out of r into a v2 request.
var onV2 = []struct {
	controller string
	move       func(from, to *specs.LinuxResources)
}{
	{"cpu", func(f, t *specs.LinuxResources) {
		if f.CPU == nil {
			return
		}
		c := *f.CPU
		t.CPU, f.CPU = &c, &specs.LinuxCPU{Cpus: c.Cpus, Mems: c.Mems}
		t.CPU.Cpus, t.CPU.Mems = "", ""
	}},
	{"cpuset", func(f, t *specs.LinuxResources) {
		if f.CPU == nil {
			return
		}
		if t.CPU == nil {
			t.CPU = &specs.LinuxCPU{}
		}
		c := *f.CPU
		t.CPU.Cpus, t.CPU.Mems, c.Cpus, c.Mems = c.Cpus, c.Mems, "", ""
		f.CPU = &c
	}},
	{"memory", func(f, t *specs.LinuxResources) { t.Memory, f.Memory = f.Memory, nil }},
	{"io", func(f, t *specs.LinuxResources) { t.BlockIO, f.BlockIO = f.BlockIO, nil }},
	{"pids", func(f, t *specs.LinuxResources) { t.Pids, f.Pids = f.Pids, nil }},
	{"hugetlb", func(f, t *specs.LinuxResources) { t.HugepageLimits, f.HugepageLimits = f.HugepageLimits, nil }},
	{"rdma", func(f, t *specs.LinuxResources) { t.Rdma, f.Rdma = f.Rdma, nil }},
}

func planHybrid(s *System, r *specs.LinuxResources, memory *int64) (*plan, error) {
	if err := checkResources(r); err != nil {
		return nil, err
	}
	v1 := *r
	v2 := specs.LinuxResources{Unified: r.Unified}
	for _, m := range onV2 {
		if i := s.tree(m.controller); i >= 0 && s.trees[i].v2 {
			m.move(&v1, &v2)
		}
	}
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		for _, t := range s.trees {
			if !t.v2 && slices.ContainsFunc(t.controllers, func(c string) bool { return len(file) > len(c) && file[:len(c)+1] == c+"." }) {
				return nil, unsupported(fmt.Sprintf("linux.resources.unified[%q]", file), "its controller is mounted as cgroup v1 here; use the field of its own")
			}
		}
	}
	a, err := planV1(&v1)
	if err != nil {
		return nil, err
	}
	b, err := planV2(&v2, memory)
	if err != nil {
		return nil, err
	}
	return &plan{settings: append(a.settings, b.settings...), notes: append(a.notes, b.notes...)}, nil
}
