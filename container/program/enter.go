package program

import (
	"strconv"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// Target is a program that joins a running container. Numbers are descriptors
// of its process; plan.None: it is not there.
type Target struct {
	Process *plan.Process // further descriptors of its own are in place, from 3 on
	OOM     *int          // oom_score_adj, nil: as the caller's
	Keyring string        // session keyring to join; empty: none

	// Namespaces to join, by the pidfd that is descriptor PIDFD.
	PIDFD    int
	Join     int  // CLONE_NEW*
	UserNS   bool // Join has CLONE_NEWUSER
	NoGroups bool // setgroups(2) is denied in it

	// Groups are files by which it enters the container's cgroup, as far as it
	// was not born there. They and PIDFD are the last descriptors, from Last on.
	Groups []int
	Last   int

	Console int // connected socket that takes the terminal's master
	// Notify is a connected socket that takes the seccomp listener. What goes
	// with it is read from State.
	Notify, State int
}

// Enter is the steps into the container. The file to execute is looked for in
// there, in PATH if it has no slash.
func Enter(t *Target) *steps.Program {
	b := newBuilder()
	p := t.Process
	execve := b.execute(p)
	b.Call("PR_SET_DUMPABLE", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	b.signals()
	b.join(t)
	b.Call("setsid", unix.SYS_SETSID)
	if t.Keyring != "" {
		b.keyring(t.Keyring)
	}
	if p.Terminal {
		root := b.Space(8)
		b.Call("open /", unix.SYS_OPEN, b.text("/"), dirPath|unix.O_CLOEXEC).Store(root)
		b.terminal(p, root, t.Console)
		b.CloseOpened()
	}
	b.prepare(p)
	b.umask(p)
	n := b.notify(t.Notify, t.State)
	b.Call("close_range", unix.SYS_CLOSE_RANGE, 3+uint64(p.KeepFDs), 1<<32-1, unix.CLOSE_RANGE_CLOEXEC)
	b.become(p, n, execve)
	return b.Program
}

// Hook is the steps of a hook: where t is nil, outside; else in the container's
// namespaces and groups, as their root.
func Hook(path string, args, env []string, t *Target) *steps.Program {
	b := newBuilder()
	if t != nil {
		b.Call("PR_SET_DUMPABLE", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
		b.join(t)
	}
	b.Call("setsid", unix.SYS_SETSID) // so that all it starts can be killed
	b.Call("exec", unix.SYS_EXECVE, b.text(path), uint64(b.Strings(args)), uint64(b.Strings(env)))
	return b.Program
}

// join is what happens where the container does not see it.
func (b *builder) join(t *Target) {
	b.enterGroups(t.Groups)
	if t.OOM != nil {
		text := strconv.Itoa(*t.OOM)
		fd := b.Space(8)
		b.about = "process.oomScoreAdj: "
		b.call("open", unix.SYS_OPEN, b.text("/proc/self/oom_score_adj"), unix.O_WRONLY|unix.O_CLOEXEC).Store(fd)
		b.on(fd, "write "+text, unix.SYS_WRITE, b.text(text), uint64(len(text)))
		b.close(fd)
		b.about = ""
	}
	if t.Join != 0 {
		b.Call("join the container's namespaces", unix.SYS_SETNS, uint64(t.PIDFD), uint64(t.Join))
	}
	if t.UserNS {
		b.rootIn(t.NoGroups)
	}
	b.Call("close_range", unix.SYS_CLOSE_RANGE, uint64(t.Last), uint64(t.Last+len(t.Groups)), 0)
	b.Fork("clone in the container", unix.CLONE_PARENT|uint64(unix.SIGCHLD))
}

// enterGroups writes to the files that cgroups are entered by.
func (b *builder) enterGroups(files []int) {
	for _, fd := range files {
		b.Call("enter the container's cgroup", unix.SYS_WRITE, uint64(fd), b.text("0"), 1)
	}
}

// rootIn makes the process root of a user namespace that it has joined, with
// none of the caller's groups.
func (b *builder) rootIn(noGroups bool) {
	if !noGroups {
		b.Call("setgroups", unix.SYS_SETGROUPS, 0, 0)
	}
	b.Call("setresgid", unix.SYS_SETRESGID, 0, 0, 0)
	b.Call("setresuid", unix.SYS_SETRESUID, 0, 0, 0)
}

// keyring joins a session keyring, or makes it: in the caller's, the program
// would find the caller's keys. Where keyctl(2) is not there, or a filter keeps
// it from us and so from all who come after, nobody finds any.
func (b *builder) keyring(name string) {
	var done steps.Label
	b.Call("", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, b.text(name)).Then(&done).Optional()
	b.when(unix.ENOSYS, &done)
	b.when(unix.EPERM, &done)
	b.FailAgain("session keyring (--no-new-keyring goes without)")
	b.Here(&done)
}

// signals makes the signals work that a caller in the background, or one that
// is to outlive its terminal, has ignored: execve(2) keeps that, and a shell
// could not even catch them. Go leaves no others so.
func (b *builder) signals() {
	const sigsetSize, actionSize = 8, 32
	byDefault := uint64(b.Space(actionSize)) // SIG_DFL
	for _, sig := range [...]unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT} {
		b.Call("signals", unix.SYS_RT_SIGACTION, uint64(sig), byDefault, 0, sigsetSize)
	}
}

func (b *builder) umask(p *plan.Process) {
	mask := uint32(0o022)
	if p.HasUmask {
		mask = p.Umask
	}
	b.Call("umask", unix.SYS_UMASK, uint64(mask))
}

// MaxState bounds what the seccomp agent is told, in bytes: a single read(2) has
// all of it, be it from a socket or from a pipe.
const MaxState = 32 << 10

// notify reads what goes with the seccomp listener, which is known when the
// process ID is; nil: there is no agent.
func (b *builder) notify(socket, state int) *notify {
	if socket == plan.None {
		return nil
	}
	n := &notify{socket, b.Space(MaxState), b.Space(8)}
	b.Call("what the seccomp agent is told", unix.SYS_READ, uint64(state), uint64(n.text), MaxState).Store(n.size)
	return n
}
