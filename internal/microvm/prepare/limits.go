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

var _ workload.OwnerLimiter = (*Backend)(nil)

// OwnerLimits implements workload.OwnerLimiter: the limits that a container
// would get, for the VMM's processes. What the guest's size says already is not
// repeated: memory is the guest's RAM, and a limit on the host would have the
// kernel kill the whole VM instead of a process in it. Processes are counted
// by the guest's kernel; the VM's own tree starts none for them, and gets a
// bound all the same.
func (b *Backend) OwnerLimits(c *workload.Config) (*specs.LinuxResources, bool) {
	res := c.Res
	l := cgroup.Limits{CPUs: res.CPUs, Weight: res.CPUWeight, IO: res.BlockIO}
	whole := res.CPUs == math.Trunc(res.CPUs)
	if c.VM.Raw && whole { // a machine booted as it is has processors, not a share of them
		l.CPUs = 0
	}
	if res.PIDs > 0 {
		l.Tasks = res.PIDs + ownThreads
	}
	// A whole number of processors is a number of vCPUs, which needs no group.
	required := res.CPUWeight > 0 || res.BlockIO != nil || res.CgroupParent != "" || !whole
	return l.Resources(), required
}
