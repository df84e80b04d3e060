package seccomp

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The kernel's answers (SECCOMP_RET_*).
const (
	retKillProcess = 0x80000000
	retKillThread  = 0x00000000
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retNotify      = 0x7fc00000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000
)

// maxErrno is MAX_ERRNO: above it a result is no error to the kernel.
const maxErrno = 4095

// answer is the kernel's word for an action.
func answer(field string, a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	if errno != nil && *errno > maxErrno {
		return 0, bad(field, "error number %d is above %d", *errno, maxErrno)
	}
	withErrno := func(base uint32) uint32 {
		if errno == nil {
			return base | uint32(unix.EPERM)
		}
		return base | uint32(*errno)
	}
	var ret uint32
	switch a {
	case specs.ActErrno:
		return withErrno(retErrno), nil
	case specs.ActTrace:
		return withErrno(retTrace), nil
	case specs.ActKill, specs.ActKillThread:
		ret = retKillThread
	case specs.ActKillProcess:
		ret = retKillProcess
	case specs.ActTrap:
		ret = retTrap
	case specs.ActLog:
		ret = retLog
	case specs.ActAllow:
		ret = retAllow
	case specs.ActNotify:
		ret = retNotify
	default:
		return 0, bad(field, "action %q is unknown", a)
	}
	if errno != nil {
		return 0, bad(field, "%s returns no error number, but %d is given", a, *errno)
	}
	return ret, nil
}

// cond is one comparison of an argument.
type cond struct {
	arg  uint
	op   specs.LinuxSeccompOperator
	v    uint64 // mask, for a masked comparison
	want uint64 // of a masked comparison
}

// rule is a set of conditions that must all hold, and the answer then.
type rule struct {
	conds []cond
	ret   uint32
}

// readArgs is the rules' conditions of one entry: one set, or one for each
// condition where two of them are on the same argument.
func readArgs(field string, args []specs.LinuxSeccompArg) ([][]cond, error) {
	if len(args) == 0 {
		return [][]cond{nil}, nil
	}
	var set []cond
	var seen [6]bool
	either := false
	for i, a := range args {
		f := fmt.Sprintf("%s.args[%d]", field, i)
		if a.Index > 5 {
			return nil, bad(f, "index %d: a system call has 6 arguments, 0 to 5", a.Index)
		}
		switch a.Op {
		case specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual, specs.OpLessThan, specs.OpMaskedEqual:
		default:
			return nil, bad(f, "operator %q is unknown", a.Op)
		}
		either = either || seen[a.Index]
		seen[a.Index] = true
		set = append(set, cond{arg: a.Index, op: a.Op, v: a.Value, want: a.ValueTwo})
	}
	if !either {
		return [][]cond{set}, nil
	}
	var sets [][]cond
	for i := range set {
		sets = append(sets, set[i:i+1])
	}
	return sets, nil
}

// profile is a checked linux.seccomp.
type profile struct {
	arches  []arch
	base    uint32 // the default answer
	entries []entry
	unknown []string
	notify  bool
	flags   uint32
}

// entry is one element of syscalls.
type entry struct {
	calls []named
	sets  [][]cond
	ret   uint32
}

// named is what a name stands for.
type named struct {
	*syscall             // nil: nothing of its own
	also     multiplexer // on i386
}

func read(s *specs.LinuxSeccomp) (*profile, error) {
	p := &profile{}
	var err error
	if p.arches, err = arches(s.Architectures); err != nil {
		return nil, err
	}
	if p.base, err = answer("defaultAction", s.DefaultAction, s.DefaultErrnoRet); err != nil {
		return nil, err
	}
	if p.base == retNotify {
		return nil, bad("defaultAction", "SCMP_ACT_NOTIFY would stop the runtime itself")
	}
	for i, e := range s.Syscalls {
		field := fmt.Sprintf("syscalls[%d]", i)
		ret, err := answer(field, e.Action, e.ErrnoRet)
		if err != nil {
			return nil, err
		}
		sets, err := readArgs(field, e.Args)
		if err != nil {
			return nil, err
		}
		if len(e.Names) == 0 {
			return nil, bad(field+".names", "it is empty")
		}
		if ret == retNotify {
			p.notify = true
			// The runtime sends the listener with sendmsg: nobody could answer that
			// yet. Others write it, and refuse the same profiles.
			for _, n := range []string{"write", "sendmsg"} {
				if slices.Contains(e.Names, n) {
					return nil, bad(field, "SCMP_ACT_NOTIFY for %s would stop the runtime itself", n)
				}
			}
		}
		calls := make([]named, 0, len(e.Names))
		for _, n := range e.Names {
			c := named{find(n), multiplexed(n)}
			if c.syscall == nil && c.also.via == nil {
				p.unknown = append(p.unknown, n)
				continue
			}
			calls = append(calls, c)
		}
		p.entries = append(p.entries, entry{calls, sets, ret})
	}
	if p.notify && s.ListenerPath == "" {
		return nil, bad("listenerPath", "SCMP_ACT_NOTIFY needs one")
	}
	if s.ListenerMetadata != "" && s.ListenerPath == "" {
		return nil, bad("listenerMetadata", "it is of no use without listenerPath")
	}
	p.flags, err = flags(s.Flags, p.notify)
	return p, err
}

// flags are seccomp(2)'s. Without any, speculation stays as it is for every
// process since Linux 5.16; before, a filter used to slow its process down.
func flags(list []specs.LinuxSeccompFlag, notify bool) (uint32, error) {
	var f uint32
	if list == nil {
		f = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	for _, n := range list {
		switch n {
		case specs.LinuxSeccompFlagLog:
			f |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			f |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			if !notify {
				continue // the kernel takes it with a listener only
			}
			f |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		case "SECCOMP_FILTER_FLAG_TSYNC":
			// The thread that loads the filter execs, which ends all others.
		default:
			return 0, bad("flags", "%q is unknown", n)
		}
	}
	if notify {
		f |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	return f, nil
}
