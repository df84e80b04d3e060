package cgroup

import (
	"math"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Limits are a command line's words for limits; zero says nothing.
type Limits struct {
	CPUs   float64 // processors' worth of time
	Weight uint64  // cpu.weight, 1 to 10000
	Tasks  int64   // threads
	IO     *specs.LinuxBlockIO
}

// MinCPUs is the least that CPUs can be: the kernel's least quota, a
// millisecond, in the period used here.
const MinCPUs = 0.01

// Resources are the limits in OCI's words.
func (l Limits) Resources() *specs.LinuxResources {
	r := &specs.LinuxResources{}
	cpu := &specs.LinuxCPU{}
	if l.Weight > 0 {
		cpu.Shares, r.CPU = new(SharesFromWeight(l.Weight)), cpu
	}
	if l.CPUs > 0 {
		cpu.Quota, cpu.Period, r.CPU = new(int64(math.Ceil(l.CPUs*defaultPeriod))), new(uint64(defaultPeriod)), cpu
	}
	if l.Tasks > 0 {
		r.Pids = &specs.LinuxPids{Limit: &l.Tasks}
	}
	r.BlockIO = l.IO
	return r
}
