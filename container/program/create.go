package program

import (
	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// Events that the program tells of. To each it is answered with a byte over
// Sync, but to Ready when it waits on Start.
const (
	Ready  = 1 // set up, waiting to be started
	Hooks  = 2 // everything is mounted: run prestart, createRuntime, createContainer
	CopyUp = 3 // two descriptors come over Sync: copy the first's files into the second
)

// What is sent to a waiting process.
const (
	Go   = 'G' // over Start, and over Sync: run the program
	Ping = 'P' // over Start: are you waiting?
	Pong = 'R' // the answer
)

// Container is a program that becomes a container's first process, whose
// further descriptors are in place from 3 on. Numbers are descriptors of its
// process; plan.None: it is not there.
type Container struct {
	Plan *plan.Plan
	Sync int // connected socket to the runtime

	// Groups are files by which it enters its cgroup.
	Groups []int

	// Namespaces to join first, in a process of its own.
	UserNS, PIDNS int
	Flags         uint64 // CLONE_NEW* of namespaces to make once UserNS is joined

	// Start is the listening socket on which it is started; plan.None: that is
	// over Sync.
	Start int
	// Console is a connected socket that takes the terminal's master.
	Console int
	// Notify is a connected socket that takes the seccomp listener. What goes
	// with it is read from Sync after the first answer.
	Notify int
}

// creator writes a container's program.
type creator struct {
	builder
	*Container
	root  steps.Ref // descriptor of the root file system
	null  steps.Ref // of the host's /dev/null
	later []func()  // what has to come after all mounts
}

// Create is the steps that set the container up, wait, and execute its
// program.
func Create(t *Container) *steps.Program {
	c := &creator{builder: newBuilder(), Container: t}
	p := t.Plan
	execve := new(steps.Label)
	if p.Process != nil {
		execve = c.execute(p.Process)
	}
	c.Call("PR_SET_NAME", unix.SYS_PRCTL, unix.PR_SET_NAME, c.text("hvctl-oci"))
	c.Call("PR_SET_DUMPABLE", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	c.signals()
	c.Call("umask", unix.SYS_UMASK, 0)
	c.enterGroups(t.Groups)
	c.namespaces()
	c.Call("setsid", unix.SYS_SETSID).Optional()
	c.await("begin")
	n := c.notify(t.Notify, t.Sync)
	c.ownNamespaces()
	if p.NewKeyring != "" {
		c.keyring(p.NewKeyring)
	}
	c.names()
	c.root, c.null = c.Space(8), c.Space(8)
	if p.Root.Remain {
		c.plainRoot()
	} else {
		c.newRoot()
	}
	c.CloseOpened() // or a working directory could be one of them, by /proc/self/fd
	if p.Process != nil {
		c.prepare(p.Process)
	}
	c.Tell(Ready)
	c.wait()
	if p.Process == nil {
		c.Fail("process: not set in the configuration, there is nothing to start", unix.EINVAL)
		return c.Program
	}
	c.umask(p.Process)
	c.Call("close_range", unix.SYS_CLOSE_RANGE, 3+uint64(p.Process.KeepFDs), 1<<32-1, unix.CLOSE_RANGE_CLOEXEC)
	c.become(p.Process, n, execve)
	return c.Program
}

// namespaces joins a user or PID namespace, which takes a process of its own.
func (c *creator) namespaces() {
	if c.UserNS == plan.None && c.PIDNS == plan.None {
		return
	}
	if c.UserNS != plan.None {
		c.Call("join the user namespace", unix.SYS_SETNS, uint64(c.UserNS), unix.CLONE_NEWUSER)
		c.rootIn(false)
	}
	if c.PIDNS != plan.None {
		c.Call("join the pid namespace", unix.SYS_SETNS, uint64(c.PIDNS), unix.CLONE_NEWPID)
	}
	c.Fork("clone in the namespaces", unix.CLONE_PARENT|uint64(unix.SIGCHLD)|c.Flags)
}

// await waits for the runtime's answer. Without a runtime there is no
// container.
func (c *creator) await(what string) {
	got := c.Space(8)
	c.Call("wait for the runtime: "+what, unix.SYS_READ, uint64(c.Sync), uint64(c.Space(8)), 1).Store(got)
	c.Compare("the runtime died: "+what, got, all, 1, unix.EPIPE)
}

// ownNamespaces joins what exists and makes what only the process itself can
// make: a cgroup namespace shows the group one was in when it was made.
func (c *creator) ownNamespaces() {
	p := c.Plan
	for _, j := range p.Join {
		c.Call("join the "+nsName(j.Flag)+" namespace", unix.SYS_SETNS, uint64(j.FD), uint64(j.Flag))
	}
	if p.Unshare != 0 {
		c.Call("make a "+nsName(p.Unshare)+" namespace", unix.SYS_UNSHARE, uint64(p.Unshare))
	}
	if p.TimeOffsets != "" {
		c.writeProc(c.openProc(), "linux.timeOffsets", "self/timens_offsets", p.TimeOffsets, nil)
	}
}

func nsName(flag uint32) string {
	for _, n := range [...]struct {
		flag uint32
		name string
	}{
		{unix.CLONE_NEWUSER, "user"},
		{unix.CLONE_NEWNS, "mount"},
		{unix.CLONE_NEWPID, "pid"},
		{unix.CLONE_NEWNET, "network"},
		{unix.CLONE_NEWIPC, "ipc"},
		{unix.CLONE_NEWUTS, "uts"},
		{unix.CLONE_NEWCGROUP, "cgroup"},
		{unix.CLONE_NEWTIME, "time"},
	} {
		if flag&n.flag != 0 {
			return n.name
		}
	}
	return "new"
}

func (c *creator) names() {
	if n := c.Plan.Hostname; n != "" {
		c.Call("hostname", unix.SYS_SETHOSTNAME, c.text(n), uint64(len(n)))
	}
	if n := c.Plan.Domainname; n != "" {
		c.Call("domainname", unix.SYS_SETDOMAINNAME, c.text(n), uint64(len(n)))
	}
}

// wait waits to be started. From then on whoever does that is told of
// failures.
func (c *creator) wait() {
	if c.Start == plan.None {
		c.await("start")
		return
	}
	// Whoever made the container waits for us to let go.
	var again, next, started steps.Label
	conn, said, got := c.Space(8), c.Space(8), c.Space(8)
	c.CallOn("close", unix.SYS_CLOSE, steps.Report)
	c.Call("close", unix.SYS_CLOSE, uint64(c.Sync))
	c.Here(&again)
	c.Call("accept", unix.SYS_ACCEPT4, uint64(c.Container.Start), 0, 0, unix.SOCK_CLOEXEC).Store(conn).Else(&again)
	c.Set(said, 0)
	c.CallOn("read", unix.SYS_READ, conn, uint64(said), 1).Store(got).Else(&next)
	c.Compare("", said, 0xff, Go, 0).Then(&started).Optional()
	c.Compare("", said, 0xff, Ping, 0).Else(&next)
	c.Set(said, Pong)
	c.CallOn("answer", unix.SYS_SENDTO, conn, uint64(said), 1, unix.MSG_NOSIGNAL, 0, 0).Optional()
	c.Here(&next)
	c.close(conn)
	c.Go(&again)
	c.Here(&started)
	c.Copy(steps.Report, conn)
	c.Call("close", unix.SYS_CLOSE, uint64(c.Container.Start))
}
