package seccomp

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// withheld are the system calls that a workload does not get by default, or
// only with a capability; all others it does. In effect it is the profile that
// container engines have in common.
var withheld = []struct {
	why   string
	caps  []string // any of them gives the calls back
	names string
}{
	{"mounts, names and namespaces of the host", []string{"CAP_SYS_ADMIN"}, "fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree umount umount2 " +
		"setdomainname sethostname setns unshare quotactl quotactl_fd fanotify_init lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr"},
	{"new namespaces: see conditions()", []string{"CAP_SYS_ADMIN"}, "clone clone3"},
	{"BPF programs see and change the kernel's data", []string{"CAP_SYS_ADMIN", "CAP_BPF"}, "bpf"},
	{"counters see other workloads", []string{"CAP_SYS_ADMIN", "CAP_PERFMON"}, "perf_event_open"},
	{"the kernel's log tells addresses", []string{"CAP_SYS_ADMIN", "CAP_SYSLOG"}, "syslog"},
	{"handles lead around directories", []string{"CAP_DAC_READ_SEARCH"}, "open_by_handle_at"},
	{"ends the machine", []string{"CAP_SYS_BOOT"}, "reboot"},
	{"a way out of the root directory", []string{"CAP_SYS_CHROOT"}, "chroot"},
	{"code in the kernel", []string{"CAP_SYS_MODULE"}, "delete_module finit_module init_module"},
	{"the host's accounting", []string{"CAP_SYS_PACCT"}, "acct"},
	{"looks into other processes", []string{"CAP_SYS_PTRACE"}, "kcmp pidfd_getfd process_madvise"},
	{"the machine's ports", []string{"CAP_SYS_RAWIO"}, "ioperm iopl"},
	{"the host's clock", []string{"CAP_SYS_TIME"}, "clock_settime clock_settime64 settimeofday stime"},
	{"other terminals", []string{"CAP_SYS_TTY_CONFIG"}, "vhangup"},
	{"where memory lies, for others too", []string{"CAP_SYS_NICE"}, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"},

	{"only some arguments: see conditions()", nil, "personality socket"},
	{"keys belong to a user, not to a container", nil, "add_key keyctl request_key"},
	{"much code of the kernel behind few checks", nil, "io_uring_enter io_uring_register io_uring_setup userfaultfd"},
	{"another kernel", nil, "kexec_file_load kexec_load"},
	{"memory of other processes", nil, "migrate_pages move_pages"},
	{"the host's swap and root", nil, "pivot_root swapoff swapon"},
	{"16-bit code in the kernel", nil, "vm86 vm86old"},
	{"for tracers inside the kernel only", nil, "uprobe"},
	{"obsolete", nil, "_sysctl bdflush create_module get_kernel_syms nfsservctl nice oldfstat oldlstat oldolduname oldstat olduname " +
		"query_module readdir sgetmask sigaction signal sigpending sigsuspend ssetmask sysfs uselib ustat"},
	{"never were", nil, "afs_syscall break ftime getpmsg gtty idle lock mpx prof profil putpmsg security stty tuxcall ulimit vserver"},
}

// decidedUpTo is the last number that the profile says something about
// (removexattrat). Newer calls look as if the kernel did not have them, until
// somebody has thought about them.
const decidedUpTo = 466

// Default is the profile of a workload whose user asked for none, with the
// capabilities that it can have (its bounding set, "CAP_..." names).
func Default(caps []string) *specs.LinuxSeccomp {
	denied := map[string]bool{}
	for _, w := range withheld {
		given := slices.ContainsFunc(w.caps, func(c string) bool { return slices.Contains(caps, c) })
		if !given {
			for n := range strings.FieldsSeq(w.names) {
				denied[n] = true
			}
		}
	}
	var allowed []string
	for _, s := range syscalls {
		if max(s.amd64, s.i386) <= decidedUpTo && !denied[s.name] {
			allowed = append(allowed, s.name)
		}
	}
	allowed = append(allowed, "recv", "send") // i386's socketcall knows them
	p := &specs.LinuxSeccomp{
		DefaultAction:   specs.ActErrno,
		DefaultErrnoRet: errno(unix.EPERM),
		Architectures:   []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		Syscalls:        []specs.LinuxSyscall{{Names: allowed, Action: specs.ActAllow}},
	}
	p.Syscalls = append(p.Syscalls, conditions(!denied["clone"])...)
	return p
}

// Personalities (linux/personality.h).
const (
	perLinux32 = 0x8
	uname26    = 0x20000
)

func errno(e unix.Errno) *uint {
	n := uint(e)
	return &n
}

// conditions are the calls that are allowed with some arguments.
func conditions(admin bool) []specs.LinuxSyscall {
	when := func(name string, index uint, op specs.LinuxSeccompOperator, values ...uint64) []specs.LinuxSyscall {
		var list []specs.LinuxSyscall
		for _, v := range values {
			list = append(list, specs.LinuxSyscall{
				Names: []string{name}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: index, Value: v, Op: op}},
			})
		}
		return list
	}
	// Every address family but the kernel's crypto, which has a history of
	// holes, and vsock, which leads to the hypervisor.
	list := slices.Concat(
		when("socket", 0, specs.OpLessThan, unix.AF_ALG),
		when("socket", 0, specs.OpEqualTo, unix.AF_ALG+1),
		when("socket", 0, specs.OpGreaterThan, unix.AF_VSOCK),
		// Linux, with or without 2.6's version numbers, 32-bit (uname only);
		// all ones asks.
		when("personality", 0, specs.OpEqualTo, 0, perLinux32, uname26, perLinux32|uname26, 0xffffffff))
	if admin {
		return list
	}
	const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	list = append(list, when("clone", 0, specs.OpMaskedEqual, newNamespaces)...)
	// clone3's flags are in memory, where a filter cannot see them; without it,
	// a libc uses clone.
	return append(list, specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: errno(unix.ENOSYS)})
}
