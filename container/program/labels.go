package program

import (
	"slices"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// openProc stores a procfs at the word it returns: one that is mounted nowhere,
// of the process's own PID namespace. Where the kernel does not let us (one
// that belongs to somebody else) it is the very root of the one on /proc.
// Nothing that is mounted on it is ever looked at.
func (b *builder) openProc() (proc steps.Ref) {
	var mounted, done steps.Label
	b.about = "/proc: "
	proc = b.Space(8)
	fs, st := b.Space(8), b.Space(statfsSize)
	b.Call("", unix.SYS_FSOPEN, b.text("proc"), unix.FSOPEN_CLOEXEC).Store(fs).Else(&mounted)
	b.CallOn("", unix.SYS_FSCONFIG, fs, unix.FSCONFIG_CMD_CREATE, 0, 0, 0).Else(&mounted)
	b.CallOn("", unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC).Store(proc).Then(&done).Else(&mounted)
	b.Here(&mounted)
	b.call("open", unix.SYS_OPEN, b.text("/proc"), dirPath|unix.O_CLOEXEC).Store(proc)
	b.on(proc, "statfs", unix.SYS_FSTATFS, uint64(st))
	b.Compare(b.about+"it is not a procfs", st+statfsType, all, unix.PROC_SUPER_MAGIC, unix.EINVAL)
	b.Compare(b.about+"it is not the root of a procfs", b.stat(proc)+statInode, all, procRootInode, unix.EINVAL)
	b.Here(&done)
	b.about = ""
	return proc
}

// writeProc writes a file of proc; its failure to be there goes to missing
// (nil: fails the program).
func (b *builder) writeProc(proc steps.Ref, what, name, value string, missing *steps.Label) {
	b.about = what + ": "
	fd := b.Space(8)
	// "self" is a link, and procfs's own.
	b.open(proc, name, unix.O_WRONLY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_MAGICLINKS, fd, missing)
	b.on(fd, "write "+value, unix.SYS_WRITE, b.text(value), uint64(len(value)))
	b.close(fd)
	b.about = ""
}

// withContext adds linux.mountLabel to a new file system's options, unless they
// say it themselves. The kernel's own (proc, sysfs, cgroup2) keep what the
// policy gives them; a message queue's exists already with its namespace, and
// takes no option (labelRoot).
func (c *creator) withContext(kind string, opts []plan.Pair) []plan.Pair {
	switch kind {
	case "proc", "sysfs", "cgroup2", "mqueue":
		return opts
	}
	if c.Plan.MountLabel == "" || slices.ContainsFunc(opts, func(o plan.Pair) bool { return o.Key == "context" }) {
		return opts
	}
	return append(slices.Clone(opts), plan.Pair{Key: "context", Value: c.Plan.MountLabel})
}

// labelRoot labels the root of a file system.
func (c *creator) labelRoot(tree steps.Ref) {
	root := c.Space(8)
	c.on(tree, "open", unix.SYS_OPENAT, c.text("."), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC).Store(root)
	label := c.Plan.MountLabel
	c.on(root, "linux.mountLabel "+label, unix.SYS_FSETXATTR, c.text("security.selinux"), c.text(label), uint64(len(label)), 0)
	c.close(root)
}

// labels sets the security label of the next execve.
func (b *builder) labels(p *plan.Process) {
	if p.AppArmor == "" && p.SELinux == "" {
		return
	}
	proc := b.openProc()
	if p.AppArmor != "" {
		var older, done steps.Label
		what := "process.apparmorProfile " + p.AppArmor + " (the host has to have it loaded: apparmor_parser)"
		b.writeProc(proc, what, "thread-self/attr/apparmor/exec", "exec "+p.AppArmor, &older)
		b.Go(&done)
		b.Here(&older) // before Linux 5.8
		b.writeProc(proc, what, "thread-self/attr/exec", "exec "+p.AppArmor, nil)
		b.Here(&done)
	}
	if p.SELinux != "" {
		b.writeProc(proc, "process.selinuxLabel", "thread-self/attr/exec", p.SELinux, nil)
	}
}
