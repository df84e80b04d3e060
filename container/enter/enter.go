package enter

import (
	"encoding/binary"
	"strconv"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// Target is where the program goes.
type Target struct {
	Process *plan.Process // its KeepBase is not used: these are in place from 3 on
	OOM     *int          // oom_score_adj, nil: as the caller's
	Keyring string        // session keyring to join; empty: none

	// Namespaces to join, by the pidfd that is descriptor PIDFD.
	PIDFD    int
	Join     int  // CLONE_NEW*
	UserNS   bool // Join has CLONE_NEWUSER
	NoGroups bool // setgroups(2) is denied in it

	// Groups are descriptors of cgroup.procs files to enter. They and PIDFD
	// are the last descriptors, from Last on.
	Groups []int
	Last   int

	Console int // connected socket that takes the terminal's master, or plan.None
	// Notify is a connected socket that takes the seccomp listener, or plan.None.
	// What goes with it is read from State.
	Notify, State int
}

// enterer writes one program.
type enterer struct {
	steps.Program
	*Target
	path steps.Ref // execve's first argument
}

// Program is the steps into the container. The file to execute is looked for
// in there, in PATH if it has no slash.
func Program(t *Target) *steps.Program {
	e := &enterer{Target: t}
	var begin, found steps.Label
	// The last step comes first: others set its path.
	e.Set(e.Space(8), 0).Then(&begin)
	e.Here(&found)
	name := strconv.Quote(t.Process.Args[0])
	exec := e.Call("exec: "+name, unix.SYS_EXECVE, 0, uint64(e.Strings(t.Process.Args)), uint64(e.Strings(t.Process.Env)))
	e.path = exec.Arg(0)
	e.Here(&begin)
	e.outside()
	e.inside()
	e.become(&found)
	return &e.Program
}

// outside is what happens where the container does not see it.
func (e *enterer) outside() {
	e.Call("PR_SET_DUMPABLE", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	for _, fd := range e.Groups {
		e.Call("enter the container's cgroup", unix.SYS_WRITE, uint64(fd), uint64(e.String("0")), 1)
	}
	if e.OOM != nil {
		text := strconv.Itoa(*e.OOM)
		fd := e.Space(8)
		e.Call("process.oomScoreAdj", unix.SYS_OPEN, uint64(e.String("/proc/self/oom_score_adj")), unix.O_WRONLY|unix.O_CLOEXEC).Store(fd)
		e.CallOn("process.oomScoreAdj "+text, unix.SYS_WRITE, fd, uint64(e.String(text)), uint64(len(text)))
		e.CallOn("close", unix.SYS_CLOSE, fd)
	}
	if e.Join != 0 {
		e.Call("join the container's namespaces", unix.SYS_SETNS, uint64(e.PIDFD), uint64(e.Join))
	}
	if e.UserNS {
		// As root of that namespace, and with none of the caller's groups.
		if !e.NoGroups {
			e.Call("setgroups", unix.SYS_SETGROUPS, 0, 0)
		}
		e.Call("setresgid", unix.SYS_SETRESGID, 0, 0, 0)
		e.Call("setresuid", unix.SYS_SETRESUID, 0, 0, 0)
	}
	e.Call("close_range", unix.SYS_CLOSE_RANGE, uint64(e.Last), uint64(e.Last+len(e.Groups)), 0)
	e.Fork("clone in the container", unix.CLONE_PARENT|uint64(unix.SIGCHLD))
}

// inside prepares everything that needs privileges.
func (e *enterer) inside() {
	p := e.Process
	e.Call("setsid", unix.SYS_SETSID)
	if e.Keyring != "" {
		e.Call("session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, uint64(e.String(e.Keyring))).Optional()
	}
	if p.Terminal {
		e.terminal()
	}
	e.labels()
	e.scheduling()
	e.directory()
	mask := uint32(0o022)
	if p.HasUmask {
		mask = p.Umask
	}
	e.Call("umask", unix.SYS_UMASK, uint64(mask))
	e.find()
	e.Call("close_range", unix.SYS_CLOSE_RANGE, 3+uint64(p.KeepFDs), 1<<32-1, unix.CLOSE_RANGE_CLOEXEC)
}

// directory changes to the working directory and makes sure that it is in the
// container: one outside, reached through a descriptor somebody left open, has
// no path, and the kernel says "(unreachable)".
func (e *enterer) directory() {
	cwd := e.Process.Cwd
	e.Call("process.cwd: chdir "+cwd, unix.SYS_CHDIR, uint64(e.String(cwd)))
	buf := e.Space(unix.PathMax)
	e.Call("process.cwd: "+cwd, unix.SYS_GETCWD, uint64(buf), unix.PathMax)
	e.Compare("process.cwd "+cwd+": it is not inside the container's root", buf, 0xff, '/', unix.ENOENT)
}

// scheduling sets what decides when and where the program runs.
func (e *enterer) scheduling() {
	p := e.Process
	le := binary.LittleEndian
	if p.HasScheduler {
		s := p.Scheduler
		b := le.AppendUint32(nil, unix.SizeofSchedAttr)
		b = le.AppendUint32(b, s.Policy)
		b = le.AppendUint64(b, s.Flags)
		b = le.AppendUint32(b, uint32(s.Nice))
		b = le.AppendUint32(b, s.Priority)
		for _, n := range []uint64{s.Runtime, s.Deadline, s.Period, 0} { // the last are utilization clamps
			b = le.AppendUint64(b, n)
		}
		e.Call("process.scheduler", unix.SYS_SCHED_SETATTR, 0, uint64(e.Bytes(b)), 0)
	}
	if p.HasIOPriority {
		const whoProcess = 1 // IOPRIO_WHO_PROCESS; 0 is the caller
		e.Call("process.ioPriority", unix.SYS_IOPRIO_SET, whoProcess, 0, uint64(p.IOPriority))
	}
	if p.HasPersonality {
		e.Call("linux.personality", unix.SYS_PERSONALITY, p.Personality)
	}
	if n := len(p.Affinity); n > 0 {
		words := make([]uint64, p.Affinity[n-1]/64+1)
		for _, c := range p.Affinity {
			words[c/64] |= 1 << (c % 64)
		}
		var b []byte
		for _, w := range words {
			b = le.AppendUint64(b, w)
		}
		e.Call("process.execCPUAffinity", unix.SYS_SCHED_SETAFFINITY, 0, uint64(len(b)), uint64(e.Bytes(b)))
	}
}
