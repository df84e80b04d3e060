package confine

import (
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/seccomp"
)

// errNoSeccomp says that this kernel, or a filter around this process, lets us
// load none.
var errNoSeccomp = errors.New("system calls are not filtered: the kernel has no seccomp filters, or lets nobody load one here")

// always are the calls of every process of ours.
var always = []string{
	// Go's runtime.
	"arch_prctl", "brk", "clock_getres", "clock_gettime", "clock_nanosleep", "exit", "exit_group", "futex", "getcpu",
	"getpid", "getrandom", "gettid", "gettimeofday", "madvise", "membarrier", "mincore", "mremap", "munmap", "nanosleep", "restart_syscall",
	"rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield", "set_robust_list", "set_tid_address",
	"setitimer", "sigaltstack", "sysinfo", "time", "timer_create", "timer_delete", "timer_settime", "uname",
	// Waiting.
	"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd2", "inotify_add_watch", "inotify_init1", "inotify_rm_watch", "linkat",
	"pipe2", "poll", "ppoll", "pselect6", "timerfd_create", "timerfd_gettime", "timerfd_settime",
	// What is open, and files as far as Landlock lets them be opened. Not truncate:
	// before Linux 6.2 Landlock says nothing about it, and ftruncate does.
	"close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "faccessat", "faccessat2", "fadvise64", "fallocate", "fchmod", "fdatasync", "flock",
	"fstat", "fstatfs", "fsync", "ftruncate", "getcwd", "getdents64", "io_uring_enter", "io_uring_register", "lseek", "lstat", "memfd_create", "mkdir", "mkdirat",
	"msync", "newfstatat", "open", "openat", "openat2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readlink", "readlinkat",
	"readv", "rename", "renameat", "renameat2", "rmdir", "sendfile", "splice", "stat", "statfs", "statx", "sync_file_range", "syncfs", "unlink", "unlinkat",
	"utimensat", "write", "writev",
	// Sockets that are open, and those they accept.
	"accept", "accept4", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmmsg", "recvmsg", "sendmmsg", "sendmsg", "sendto",
	"setsockopt", "shutdown",
	// Children that there are.
	"pidfd_send_signal", "wait4", "waitid",
	// Who we are, and what we use.
	"getegid", "geteuid", "getgid", "getgroups", "getpgrp", "getppid", "getpriority", "getrlimit", "getrusage", "getuid", "capget", "umask",
}

// ofSockets are those of who makes sockets.
var ofSockets = []string{"bind", "connect"}

// ofOwners are those of Policy.Owners.
var ofOwners = []string{
	"capset", "chmod", "chown", "fchmodat", "fchmodat2", "fchown", "fchownat", "fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getxattr", "lgetxattr",
	"link", "listxattr", "llistxattr", "lremovexattr", "lsetxattr", "mknod", "mknodat", "removexattr", "setfsgid", "setfsuid", "setxattr",
	"symlink", "symlinkat",
}

// ofPrograms are those of who starts programs, and of what a program of ours does
// before its first line.
var ofPrograms = []string{
	"chdir", "clone3", "execve", "fchdir", "fork", "kill", "pidfd_open", "setpgid", "setrlimit", "setsid", "tgkill", "vfork",
}

const (
	// newThread is how Go's runtime clones: a thread of this process, in no new
	// namespace.
	newThread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD
	// namespaces are the flags of clone that make one.
	namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

	// word is the half of an argument that the kernel looks at where it takes an
	// int: what is above it is no way around a comparison.
	word = 0xffffffff

	kvmCreateVM  = 0xae01 // KVM_CREATE_VM
	fioSetOwn    = 0x8901 // FIOSETOWN
	siocSetGroup = 0x8902 // SIOCSPGRP
	prSetVMA     = 0x53564d41
)

// filterCalls loads the filter into every thread.
func filterCalls(p Policy) error {
	prog, err := seccomp.Compile(profile(p, os.Getpid()))
	if err != nil {
		return fmt.Errorf("the filter of system calls: %w", err)
	}
	prog.Flags |= unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	_, err = prog.Load()
	if errors.Is(err, seccomp.ErrUnsupported) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: %w", errNoSeccomp, err)
	}
	return err
}

// profile is p in OCI's terms, for the process pid. Rules with conditions go
// before those without.
func profile(p Policy, pid int) *specs.LinuxSeccomp {
	s := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64},
		Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow},
	}
	allow := func(names []string, args ...specs.LinuxSeccompArg) {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: names, Action: specs.ActAllow, Args: args})
	}
	deny := func(name string, args ...specs.LinuxSeccompArg) {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno, Args: args})
	}
	allow(always)
	// Signals to ourselves: Go's runtime preempts its threads by them.
	allow([]string{"tgkill", "kill", "prlimit64"}, is(0, uint64(pid)))
	allow([]string{"prlimit64"}, is(0, 0))
	allow([]string{"clone"}, masked(0, newThread|namespaces, newThread))
	allow([]string{"prctl"}, is(0, prSetVMA))
	allow([]string{"prctl"}, is(0, unix.PR_SET_NAME))
	allow([]string{"socketpair"}, is(0, unix.AF_UNIX))
	if memory := []string{"mmap", "mprotect"}; p.Programs { // their loaders map code
		allow(memory)
	} else {
		allow(memory, masked(2, unix.PROT_EXEC, 0))
	}
	// A way to have the kernel send signals to others.
	for _, cmd := range []uint64{unix.F_SETOWN, unix.F_SETOWN_EX, unix.F_SETSIG} {
		deny("fcntl", is(1, cmd))
	}
	allow([]string{"fcntl"})
	if !p.Programs { // which may be a new owner of the VM
		deny("ioctl", is(1, kvmCreateVM))
	}
	for _, request := range []uint64{
		fioSetOwn, siocSetGroup, unix.TIOCSTI, unix.TIOCLINUX, unix.TIOCSCTTY,
		unix.TUNSETPERSIST, unix.TUNSETOWNER, unix.TUNSETGROUP, unix.SIOCSIFHWADDR, // a tap is its maker's
	} {
		deny("ioctl", is(1, request))
	}
	allow([]string{"ioctl"})
	for _, family := range p.Sockets {
		allow([]string{"socket"}, is(0, uint64(family)))
	}
	if len(p.Sockets) > 0 {
		allow(ofSockets)
	}
	if p.Owners {
		allow(ofOwners)
	}
	if p.Programs {
		allow(ofPrograms)
		allow([]string{"clone"}, masked(0, namespaces, 0))
	}
	return s
}

// is compares an argument that is an int to the kernel.
func is(index uint, value uint64) specs.LinuxSeccompArg { return masked(index, word, value) }

// masked compares some bits of an argument.
func masked(index uint, mask, value uint64) specs.LinuxSeccompArg {
	return specs.LinuxSeccompArg{Index: index, Op: specs.OpMaskedEqual, Value: mask, ValueTwo: value}
}
