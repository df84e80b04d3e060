package stage

import (
	"fmt"
	"os"
	"runtime"

	"github.com/hvctl/hvctl/container/plan"
	"golang.org/x/sys/unix"
)

// scheduling sets what decides when and where the program runs.
func scheduling(p *plan.Process) error {
	if p.HasScheduler {
		s := p.Scheduler
		attr := unix.SchedAttr{
			Size: unix.SizeofSchedAttr, Policy: s.Policy, Flags: s.Flags, Nice: s.Nice, Priority: s.Priority,
			Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
		}
		if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
			return fmt.Errorf("process.scheduler: %w", err)
		}
	}
	if p.HasIOPriority {
		const whoProcess = 1 // IOPRIO_WHO_PROCESS; 0 is the calling thread
		if _, _, e := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(p.IOPriority)); e != 0 {
			return fmt.Errorf("process.ioPriority: %w", e)
		}
	}
	if p.HasPersonality {
		if _, _, e := unix.Syscall(unix.SYS_PERSONALITY, uintptr(p.Personality), 0, 0); e != 0 {
			return fmt.Errorf("linux.personality: %w", e)
		}
	}
	if len(p.Affinity) > 0 {
		set := unix.CPUSetDynamic(unix.NewCPUSet(int(p.Affinity[len(p.Affinity)-1]) + 1))
		for _, c := range p.Affinity {
			set.Set(int(c))
		}
		if err := unix.SchedSetaffinityDynamic(0, set); err != nil {
			return fmt.Errorf("process.execCPUAffinity: %w", err)
		}
	}
	return nil
}

// heapReserve is more than what is left to do before the execve allocates.
const heapReserve = 1 << 20

// rlimits come last: they would limit us.
func rlimits(p *plan.Process) error {
	for _, r := range p.Rlimits {
		if r.Resource == unix.RLIMIT_AS || r.Resource == unix.RLIMIT_DATA {
			// Under such a limit the Go runtime may get no more memory and die
			// of it, so it takes and frees some now.
			b := make([]byte, heapReserve)
			runtime.KeepAlive(b)
			runtime.GC()
			break
		}
	}
	for _, r := range p.Rlimits {
		lim := unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		// It also makes the Go runtime forget the limit it would restore.
		if err := unix.Prlimit(0, int(r.Resource), &lim, nil); err != nil {
			return fmt.Errorf("process.rlimits: resource %d to %d:%d: %w", r.Resource, r.Soft, r.Hard, err)
		}
	}
	return nil
}

// closeOthers lets no descriptor pass but the standard streams and those the
// caller asked for, which move to where the program expects them.
func (s *stage) closeOthers(p *plan.Process) error {
	keep := int(p.KeepFDs)
	if keep > 0 {
		high, err := unix.FcntlInt(uintptr(s.report), unix.F_DUPFD_CLOEXEC, int(p.KeepBase)+2*keep+3)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		s.report = rawFD(high)
	}
	for i := range keep { // the base lies above 3, so none is overwritten before it moved
		if err := unix.Dup3(int(p.KeepBase)+i, 3+i, 0); err != nil {
			return fmt.Errorf("--preserve-fds: descriptor %d: %w", 3+i, err)
		}
	}
	return os.NewSyscallError("close_range", unix.CloseRange(3+uint(keep), ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC))
}
