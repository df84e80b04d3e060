package prepare

import (
	"math"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ownThreads is how many threads a VM may have on the host beside those that
// its workload's limit of processes counts: the VMM's, one of them for each
// vCPU and for each request that waits for a disk.
const ownThreads = 256

// cpuPeriod is the kernel's default of cpu.max, in microseconds.
const cpuPeriod = 100000

// minCPUs is the least of cpu.max, a millisecond, in that period.
const minCPUs = 0.01

var _ workload.OwnerLimiter = (*Backend)(nil)

// OwnerLimits implements workload.OwnerLimiter: the limits that a container
// would get, for the VMM's processes. What the guest's size says already is not
// repeated: memory is the guest's RAM, and a limit on the host would have the
// kernel kill the whole VM instead of a process in it. Processes are counted
// by the guest's kernel; the VM's own tree starts none for them, and gets a
// bound all the same.
func (b *Backend) OwnerLimits(c *workload.Config) (*specs.LinuxResources, bool) {
	r := &specs.LinuxResources{}
	res := c.Res
	cpu := &specs.LinuxCPU{}
	if res.CPUWeight > 0 {
		cpu.Shares, r.CPU = new(cgroup.SharesFromWeight(res.CPUWeight)), cpu
	}
	// A machine that is booted as it is has processors, not a share of them.
	whole := res.CPUs == math.Trunc(res.CPUs)
	if res.CPUs > 0 && !(c.VM.Raw && whole) {
		cpu.Quota, cpu.Period, r.CPU = new(int64(math.Ceil(res.CPUs*cpuPeriod))), new(uint64(cpuPeriod)), cpu
	}
	if res.PIDs > 0 {
		r.Pids = &specs.LinuxPids{Limit: new(res.PIDs + ownThreads)}
	}
	// A whole number of processors is a number of vCPUs, which needs no group.
	required := res.CPUWeight > 0 || res.CgroupParent != "" || !whole
	return r, required
}
