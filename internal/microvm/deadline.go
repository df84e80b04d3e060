package microvm

import (
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// promised has the host keep a promise of processor time to the calling thread,
// a vCPU's; nil without one.
func promised(d *workload.Deadline) func() error {
	if d == nil {
		return nil
	}
	return func() error {
		attr := unix.SchedAttr{
			Policy: unix.SCHED_DEADLINE, Runtime: uint64(d.Runtime), Deadline: uint64(d.Deadline), Period: uint64(d.Period),
			// The Go runtime may make a thread while it runs on this one, and the
			// kernel lets nobody inherit such a promise.
			Flags: unix.SCHED_FLAG_RESET_ON_FORK,
		}
		if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
			return d.Explain(err)
		}
		return nil
	}
}
