package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/guestproto"
)

// atFDCWD is AT_FDCWD as a system call argument.
const atFDCWD = ^uintptr(99) // -100

// startError is a program that could not be started; code is what a shell
// would return.
type startError struct {
	code int
	msg  string
}

func (e *startError) Error() string { return e.msg }

// launch is everything the child's plan is made from.
type launch struct {
	spec   *specs.Process
	filter *guestproto.Filter
	creds  etcfiles.Creds
	stdio  [3]*os.File // the child's ends; never descriptors 0 to 2
	cgroup *cgroup     // the workload's, or nil
	// root is the workload's root in hvinit's view; it is set for the first
	// process, which makes its own namespaces.
	root string
	// masked and readonly are paths in it to hide and to protect.
	masked, readonly []string
	// hidden are mounts in hvinit's view that are none of its business.
	hidden []string
	// join are the namespaces of the first process; they are set for others.
	join *namespaces
}

// namespaces are open handles on the namespaces of the first process.
type namespaces struct {
	pid, mnt, cgroup *os.File // cgroup may be nil
}

// close lets go of them.
func (n *namespaces) close() {
	if n == nil {
		return
	}
	for _, f := range []*os.File{n.pid, n.mnt, n.cgroup} {
		if f != nil {
			f.Close()
		}
	}
}

// plan lists what the child does. The order matters: what needs privileges
// comes before they are given up, and what would limit the child itself comes
// last.
func (l *launch) plan() (*plan, error) {
	p := new(plan)
	s := l.spec
	if l.cgroup != nil {
		// Whoever writes there waits until no task of the machine is about to
		// fork, for some ticks of the clock: to be born there is better.
		p.cgroup = l.cgroup.at
		p.add("join the workload's cgroup", optional|unlessBorn, unix.SYS_WRITE, l.cgroup.procs.Fd(), p.str("0"), 1)
	}
	if s.OOMScoreAdj != nil {
		text := fmt.Sprint(*s.OOMScoreAdj)
		p.add("open oom_score_adj", save, unix.SYS_OPENAT, atFDCWD, p.str("/proc/self/oom_score_adj"), unix.O_WRONLY|unix.O_CLOEXEC)
		p.add("set oom_score_adj to "+text, useSaved, unix.SYS_WRITE, 0, p.str(text), uintptr(len(text)))
	}
	if l.join != nil {
		if l.join.cgroup != nil {
			p.add("join the cgroup namespace", optional, unix.SYS_SETNS, l.join.cgroup.Fd(), unix.CLONE_NEWCGROUP)
		}
		p.add("join the mount namespace", 0, unix.SYS_SETNS, l.join.mnt.Fd(), unix.CLONE_NEWNS)
	} else {
		l.enterRoot(p)
	}
	p.add("setsid", 0, unix.SYS_SETSID)
	for i, f := range l.stdio {
		p.add("connect standard streams", 0, unix.SYS_DUP3, f.Fd(), uintptr(i), 0)
	}
	if s.Terminal {
		p.add("take the terminal", 0, unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
	if err := l.limits(p); err != nil {
		return nil, err
	}
	cwd := s.Cwd
	if cwd == "" {
		cwd = "/"
	}
	p.add(fmt.Sprintf("chdir to %q", cwd), 0, unix.SYS_CHDIR, p.str(cwd))
	// Without no_new_privs it takes a privilege to load a filter, which the
	// program may not be left with. Such a filter has to let the rest happen.
	if !s.NoNewPrivileges {
		l.loadFilter(p)
	}
	if err := l.identity(p); err != nil {
		return nil, err
	}
	umask := uint32(0o022)
	if s.User.Umask != nil {
		umask = *s.User.Umask
	}
	p.add("umask", 0, unix.SYS_UMASK, uintptr(umask))
	if s.NoNewPrivileges {
		p.add("set no_new_privs", 0, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	}
	dfl := p.words(0, 0, 0, 0) // struct sigaction with SIG_DFL
	// An ignored signal stays ignored over execve; PID 1 may have been started
	// with some.
	for sig := uintptr(1); sig <= 64; sig++ {
		if sig != uintptr(unix.SIGKILL) && sig != uintptr(unix.SIGSTOP) {
			p.add("reset signals", 0, unix.SYS_RT_SIGACTION, sig, dfl, 0, 8)
		}
	}
	p.add("unblock signals", 0, unix.SYS_RT_SIGPROCMASK, 2 /* SIG_SETMASK */, p.words(0, 0), 0, 8)
	// Everything here is close-on-exec already; this also covers what the
	// kernel handed to PID 1. Kernels before 5.11 lack the flag.
	p.add("close_range", optional, unix.SYS_CLOSE_RANGE, 3, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC)
	if s.NoNewPrivileges {
		l.loadFilter(p)
	}
	return p, l.program(p)
}

// enterRoot makes the copied mount tree the workload's: /proc of the child's
// own PID namespace, and the root moved onto /. pivot_root would refuse: the
// initramfs cannot be pivoted away from.
func (l *launch) enterRoot(p *plan) {
	dot, slash, proc := p.str("."), p.str("/"), p.str("proc")
	p.add("make a cgroup namespace", optional, unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
	p.add("make mounts private", 0, unix.SYS_MOUNT, 0, slash, 0, unix.MS_REC|unix.MS_PRIVATE, 0)
	for _, path := range l.hidden {
		p.add("leave "+path, optional, unix.SYS_UMOUNT2, p.str(path), unix.MNT_DETACH)
	}
	p.add("chdir to the new root", 0, unix.SYS_CHDIR, p.str(l.root))
	p.add("mount /proc", 0, unix.SYS_MOUNT, proc, proc, proc, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, 0)
	if l.cgroup != nil {
		cg := p.str("cgroup2")
		p.add("mount /sys/fs/cgroup", optional, unix.SYS_MOUNT, cg, p.str("sys/fs/cgroup"), cg,
			unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, 0)
	}
	p.add("move the new root to /", 0, unix.SYS_MOUNT, dot, slash, 0, unix.MS_MOVE, 0)
	p.add("chroot", 0, unix.SYS_CHROOT, dot)
	p.add("chdir to /", 0, unix.SYS_CHDIR, slash)
	l.protect(p)
}

// protect hides and protects paths of the new root. Which of them are
// directories is found out by trying: a tmpfs does not fit on a file, nor a
// device on a directory.
func (l *launch) protect(p *plan) {
	const none = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	tmpfs, null := p.str("tmpfs"), p.str("/dev/null")
	for _, path := range l.masked {
		target := p.str(path)
		p.add("mask "+path, ifThere, unix.SYS_MOUNT, tmpfs, target, tmpfs, none|unix.MS_RDONLY, 0)
		p.add("mask "+path, ifThere, unix.SYS_MOUNT, null, target, 0, unix.MS_BIND, 0)
	}
	for _, path := range l.readonly {
		target, flags := p.str(path), uintptr(unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY)
		if strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, "/sys/") {
			flags |= none // what those have already, or it would be lost
		}
		p.add("protect "+path, ifThere, unix.SYS_MOUNT, target, target, 0, unix.MS_BIND|unix.MS_REC, 0)
		p.add("protect "+path, ifThere, unix.SYS_MOUNT, 0, target, 0, flags, 0)
	}
}

// loadFilter adds the system call filter, if there is one.
func (l *launch) loadFilter(p *plan) {
	if l.filter == nil || len(l.filter.Program) == 0 {
		return
	}
	const insnSize = 8
	p.keep = append(p.keep, l.filter.Program)
	prog := make([]byte, 16) // struct sock_fprog
	binary.LittleEndian.PutUint16(prog, uint16(len(l.filter.Program)/insnSize))
	binary.LittleEndian.PutUint64(prog[8:], uint64(bytesArg(l.filter.Program)))
	p.keep = append(p.keep, prog)
	p.add("load the system call filter", 0, unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(l.filter.Flags), bytesArg(prog))
}

// defaultNoFile applies where the workload says nothing: the kernel gives PID 1
// 1024:4096, too few for a server, and the Go runtime has raised the soft limit
// of this process, which a child would inherit. The soft limit stays where
// programs that use select(2) are safe.
var defaultNoFile = specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 512 << 10}

func (l *launch) limits(p *plan) error {
	noFile := defaultNoFile
	b := binary.LittleEndian.AppendUint64(nil, noFile.Soft)
	b = binary.LittleEndian.AppendUint64(b, noFile.Hard)
	p.keep = append(p.keep, b)
	p.add("set the default RLIMIT_NOFILE", optional, unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, bytesArg(b), 0)
	for _, r := range l.spec.Rlimits {
		n, ok := rlimits[r.Type]
		if !ok {
			return &startError{125, fmt.Sprintf("rlimit %q is unknown", r.Type)}
		}
		b := binary.LittleEndian.AppendUint64(nil, r.Soft)
		b = binary.LittleEndian.AppendUint64(b, r.Hard)
		p.keep = append(p.keep, b)
		p.add(fmt.Sprintf("set %s to %d:%d", r.Type, r.Soft, r.Hard), 0, unix.SYS_PRLIMIT64, 0, uintptr(n), bytesArg(b), 0)
	}
	return nil
}

// identity sets groups, user and capabilities.
func (l *launch) identity(p *plan) error {
	c := l.spec.Capabilities
	var sets capSets
	if c != nil {
		var err error
		if sets, err = parseCaps(c); err != nil {
			return &startError{125, err.Error()}
		}
		for n := uintptr(0); n <= lastCap(); n++ {
			if sets.bounding&(1<<n) == 0 {
				p.add("drop a capability from the bounding set", 0, unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, n)
			}
		}
		p.add("keep capabilities over setuid", 0, unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1)
	}
	u := l.creds
	p.add("setgroups", 0, unix.SYS_SETGROUPS, uintptr(len(u.Groups)), p.words(u.Groups...))
	p.add("setresgid", 0, unix.SYS_SETRESGID, uintptr(u.GID), uintptr(u.GID), uintptr(u.GID))
	p.add("setresuid", 0, unix.SYS_SETRESUID, uintptr(u.UID), uintptr(u.UID), uintptr(u.UID))
	if c == nil {
		return nil
	}
	lo, hi := func(m uint64) uint32 { return uint32(m) }, func(m uint64) uint32 { return uint32(m >> 32) }
	hdr := p.words(unix.LINUX_CAPABILITY_VERSION_3, 0)
	data := p.words(lo(sets.effective), lo(sets.permitted), lo(sets.inheritable),
		hi(sets.effective), hi(sets.permitted), hi(sets.inheritable))
	p.add("set capabilities", 0, unix.SYS_CAPSET, hdr, data)
	p.add("clear ambient capabilities", optional, unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
	for n := uintptr(0); n <= lastCap(); n++ {
		if sets.ambient&(1<<n) != 0 {
			p.add("raise an ambient capability", 0, unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n)
		}
	}
	return nil
}

// program adds the execve of the program, or one per directory of its search
// path.
func (l *launch) program(p *plan) error {
	s := l.spec
	if len(s.Args) == 0 || s.Args[0] == "" {
		return &startError{127, "no command given, and the image has none"}
	}
	for _, list := range [][]string{s.Args, s.Env, {s.Cwd}} {
		for _, v := range list {
			if strings.IndexByte(v, 0) >= 0 {
				return &startError{125, "an argument, variable or directory has a zero byte"}
			}
		}
	}
	argv, envp := p.table(s.Args), p.table(s.Env)
	name := s.Args[0]
	if strings.Contains(name, "/") {
		p.add(name, 0, unix.SYS_EXECVE, p.str(name), argv, envp)
		return nil
	}
	search := ""
	for _, kv := range s.Env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			search = v
		}
	}
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "."
		}
		p.add(name, tryNext, unix.SYS_EXECVE, p.str(path.Join(dir, name)), argv, envp)
	}
	return nil
}

// explain turns a failed plan into the message and exit code that users of
// containers know.
func explain(err error, s *specs.Process) error {
	var pe *planError
	if !errors.As(err, &pe) {
		return err
	}
	if pe.op.nr != unix.SYS_EXECVE {
		code := 125
		if pe.op.nr == unix.SYS_CHDIR {
			code = 127
			if pe.errno == syscall.EACCES {
				code = 126
			}
		}
		return &startError{code, pe.Error()}
	}
	name := s.Args[0]
	switch {
	case pe.errno == syscall.ENOENT && !strings.Contains(name, "/"), pe.errno == syscall.ENOTDIR && !strings.Contains(name, "/"):
		return &startError{127, fmt.Sprintf("exec: %q: executable file not found in $PATH", name)}
	case pe.errno == syscall.ENOENT, pe.errno == syscall.ENOTDIR:
		return &startError{127, fmt.Sprintf("exec: %q: stat %s: %v", name, name, pe.errno)}
	}
	return &startError{126, fmt.Sprintf("exec: %q: %v", name, pe.errno)}
}

// startFailure is err as the protocol carries it.
func startFailure(err error) (guestproto.StartFailure, bool) {
	if se, ok := errors.AsType[*startError](err); ok {
		return guestproto.StartFailure{ExitCode: se.code}, true
	}
	return guestproto.StartFailure{}, false
}
