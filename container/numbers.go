package container

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/internal/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capMask turns names into bits.
func capMask(names []string) (mask uint64, err error) {
	for _, n := range names {
		i, ok := capability.Number(n)
		if !ok {
			return 0, fmt.Errorf("capability %q is unknown", n)
		}
		mask |= 1 << i
	}
	return mask, nil
}

// capSets turns the five sets into bits; none at all when c is nil.
func capSets(c *specs.LinuxCapabilities) (s plan.Caps, err error) {
	if c == nil {
		return s, nil
	}
	for _, set := range []struct {
		names []string
		mask  *uint64
	}{
		{c.Bounding, &s.Bounding},
		{c.Effective, &s.Effective},
		{c.Permitted, &s.Permitted},
		{c.Inheritable, &s.Inheritable},
		{c.Ambient, &s.Ambient},
	} {
		if *set.mask, err = capMask(set.names); err != nil {
			return s, err
		}
	}
	// Engines list ambient ones that are not inheritable; the kernel has none
	// such, so they are as good as not there.
	s.Ambient &= s.Permitted & s.Inheritable
	return s, nil
}

// rlimitNumbers are OCI's names of resource limits.
var rlimitNumbers = map[string]uint32{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

var schedPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: unix.SCHED_NORMAL, specs.SchedFIFO: unix.SCHED_FIFO, specs.SchedRR: unix.SCHED_RR, specs.SchedBatch: unix.SCHED_BATCH,
	specs.SchedIdle: unix.SCHED_IDLE, specs.SchedDeadline: unix.SCHED_DEADLINE,
}

var schedFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: unix.SCHED_FLAG_RESET_ON_FORK, specs.SchedFlagReclaim: unix.SCHED_FLAG_RECLAIM,
	specs.SchedFlagDLOverrun: unix.SCHED_FLAG_DL_OVERRUN, specs.SchedFlagKeepPolicy: unix.SCHED_FLAG_KEEP_POLICY,
	specs.SchedFlagKeepParams: unix.SCHED_FLAG_KEEP_PARAMS, specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

func schedulerPlan(s *specs.Scheduler) (p plan.Scheduler, err error) {
	if s == nil {
		return p, nil
	}
	policy, ok := schedPolicies[s.Policy]
	if !ok {
		return p, fmt.Errorf("policy %q is unknown", s.Policy)
	}
	p = plan.Scheduler{Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority), Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period}
	for _, f := range s.Flags {
		v, ok := schedFlags[f]
		if !ok {
			return p, fmt.Errorf("flag %q is unknown", f)
		}
		p.Flags |= v
	}
	if s.Nice < -20 || s.Nice > 19 || s.Priority < 0 || s.Priority > 99 {
		return p, errors.New("nice or priority is out of range")
	}
	return p, nil
}

func ioPriorityPlan(p *specs.LinuxIOPriority) (uint32, error) {
	if p == nil {
		return 0, nil
	}
	class := slices.Index([]specs.IOPriorityClass{"", specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE}, p.Class)
	if class < 1 {
		return 0, fmt.Errorf("class %q is unknown", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return 0, fmt.Errorf("priority %d is not between 0 and 7", p.Priority)
	}
	return uint32(class)<<13 | uint32(p.Priority), nil
}

func personalityPlan(p *specs.LinuxPersonality) (uint64, error) {
	if p == nil {
		return 0, nil
	}
	if len(p.Flags) > 0 {
		return 0, errors.New("flags are not supported")
	}
	switch p.Domain {
	case specs.PerLinux:
		return 0, nil
	case specs.PerLinux32:
		return 8, nil // PER_LINUX32
	}
	return 0, fmt.Errorf("domain %q is unknown", p.Domain)
}

// parseCPUs reads "0-3,7"; the result is sorted.
func parseCPUs(s string) ([]uint32, error) {
	var out []uint32
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			hi = lo
		}
		a, err := strconv.ParseUint(lo, 10, 16)
		b, err2 := strconv.ParseUint(hi, 10, 16)
		if err != nil || err2 != nil || a > b || b >= 1<<13 {
			return nil, fmt.Errorf("%q is not a list of processors", s)
		}
		for n := a; n <= b; n++ {
			out = append(out, uint32(n))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// deviceMode is a device's mode with its type.
func deviceMode(d *specs.LinuxDevice) (uint32, error) {
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(*d.FileMode) & 0o7777
	}
	switch d.Type {
	case "c", "u":
		return mode | unix.S_IFCHR, nil
	case "b":
		return mode | unix.S_IFBLK, nil
	case "p":
		return mode | unix.S_IFIFO, nil
	}
	return 0, fmt.Errorf("%q is not one of c, u, b and p", d.Type)
}

func hasAppArmor() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(b), "Y")
}

func hasSELinux() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &st) == nil && st.Type == unix.SELINUX_MAGIC
}
