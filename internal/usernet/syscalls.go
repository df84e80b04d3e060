package usernet

import (
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/seccomp"
)

// confine leaves the process what it needs to carry connections, for good: no
// program can be executed and no file be written, memory becomes no code, and
// of sockets there are TCP and UDP, none that takes a port of the host's. What is refused fails with EPERM, so that a
// call of Go's runtime that is missing here costs no instance its network.
//
// Preconditions: no_new_privs.
func confine() error {
	p, err := seccomp.Compile(profile(os.Getpid()))
	if err == nil {
		err = p.LoadAll()
	}
	if err != nil {
		return fmt.Errorf("confine the user-mode network: %w", err)
	}
	return nil
}

// profile is what confine allows.
func profile(pid int) *specs.LinuxSeccomp {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}}
	allow := func(args []specs.LinuxSeccompArg, names ...string) {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: names, Action: specs.ActAllow, Args: args})
	}
	// masked is an argument of which, under the mask, is left want.
	masked := func(index uint, mask, want uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Value: mask, ValueTwo: want, Op: specs.OpMaskedEqual}
	}
	one := func(a ...specs.LinuxSeccompArg) []specs.LinuxSeccompArg { return a }

	// Frames, connections, and what waits for both.
	allow(nil, "read", "write", "readv", "writev", "pread64", "close", "fstat", "lseek",
		"accept4", "connect", "getpeername", "getsockname", "getsockopt", "setsockopt", "shutdown",
		"recvfrom", "recvmsg", "sendto", "sendmsg", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "eventfd2", "poll", "ppoll")
	// Not F_SETOWN: signals of a descriptor reach other processes of this user.
	for _, command := range []uint64{unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, unix.F_DUPFD_CLOEXEC} {
		allow(one(masked(1, ^uint64(0), command)), "fcntl")
	}
	for _, family := range []uint64{unix.AF_INET, unix.AF_INET6} {
		for _, kind := range []uint64{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
			for _, protocol := range []uint64{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				allow(one(masked(0, ^uint64(0), family), masked(1, ^uint64(unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC), kind), masked(2, ^uint64(0), protocol)), "socket")
			}
		}
	}
	// The host's name servers change: /etc/resolv.conf is read when it is asked for.
	const writes = unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC
	allow(one(masked(2, writes, 0)), "openat")
	allow(nil, "newfstatat")

	// Go's runtime.
	allow(nil, "futex", "nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday", "sched_yield", "sched_getaffinity", "getpid", "gettid",
		"getrandom", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "exit", "exit_group",
		"munmap", "madvise", "rseq", "set_robust_list", "mincore")
	allow(one(masked(2, unix.PROT_EXEC, 0)), "mmap", "mprotect")
	allow(one(masked(0, unix.CLONE_VM|unix.CLONE_THREAD, unix.CLONE_VM|unix.CLONE_THREAD)), "clone")
	allow(one(masked(0, ^uint64(0), uint64(pid))), "tgkill")
	// A C library, of tests, then falls back to clone, whose flags can be seen.
	s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: new(uint(unix.ENOSYS))})
	return s
}
