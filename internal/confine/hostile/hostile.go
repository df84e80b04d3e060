package hostile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Target is what is attacked. All of it belongs to the test.
type Target struct {
	Secret  string // a file that others than the attacked process use
	Folder  string // the folder that it lies in
	TCP     string // "127.0.0.1:port" that somebody listens on
	Unix    string // path of a socket that somebody listens on
	Name    string // of another, in no directory but the network namespace
	Process int    // another process of the same user
}

// Result is what came of one attack.
type Result struct {
	Name string `json:"name"`
	// Err is why it failed; empty when it worked.
	Err string `json:"err,omitempty"`
}

// attack is one attempt.
type attack struct {
	name string
	try  func(t Target) error
}

// Run tries everything, and returns how each attempt ended.
func Run(t Target) []Result {
	var all []Result
	for _, a := range attacks {
		r := Result{Name: a.name}
		if err := a.try(t); err != nil {
			r.Err = err.Error()
		}
		all = append(all, r)
	}
	return all
}

var attacks = []attack{
	// Files.
	{"read /etc/shadow", func(Target) error { return read("/etc/shadow") }},
	{"read another VM's disk", func(t Target) error { return read(t.Secret) }},
	{"write another VM's disk", func(t Target) error { return open(t.Secret, unix.O_WRONLY) }},
	{"truncate another VM's disk", func(t Target) error { return unix.Truncate(t.Secret, 4) }},
	{"list its folder", func(t Target) error { _, err := os.ReadDir(t.Folder); return err }},
	{"leave a file beside it", func(t Target) error { return os.WriteFile(filepath.Join(t.Folder, "left"), nil, 0o600) }},
	{"leave a link beside it", func(t Target) error { return unix.Symlink("/", filepath.Join(t.Folder, "link")) }},
	{"leave a setuid program", func(t Target) error { return unix.Fchmodat(unix.AT_FDCWD, t.Secret, 0o4755, 0) }},
	{"own another VM's disk", func(t Target) error { return unix.Fchownat(unix.AT_FDCWD, t.Secret, 1, 1, 0) }},
	{"rename another VM's disk", func(t Target) error {
		return errors.Join(unix.Rename(t.Secret, t.Secret+".old"), unix.Rename(t.Secret+".old", t.Secret))
	}},
	{"make a device", func(t Target) error {
		return unix.Mknod(filepath.Join(t.Folder, "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))
	}},
	{"see another VM's disk", func(t Target) error { _, err := os.Stat(t.Secret); return err }},
	{"see the host's files", func(Target) error { _, err := os.Stat("/etc/passwd"); return err }},
	{"see other processes", func(t Target) error { _, err := os.Stat(fmt.Sprintf("/proc/%d", t.Process)); return err }},
	{"see another VM's disk from the working directory", func(t Target) error { return seeUpwards(t.Secret) }},
	{"see the host's files through what is open", func(Target) error { return seeThroughOpen() }},
	{"read another process's memory in /proc", func(t Target) error { return read(fmt.Sprintf("/proc/%d/maps", t.Process)) }},
	{"read another process's environment", func(t Target) error { return read(fmt.Sprintf("/proc/%d/environ", t.Process)) }},
	{"reach the host through another process's root", func(t Target) error { return read(fmt.Sprintf("/proc/%d/root/etc/passwd", t.Process)) }},
	{"open the host's memory", func(Target) error { return open("/dev/mem", unix.O_RDONLY) }},
	{"open /dev/kvm", func(Target) error { return open("/dev/kvm", unix.O_RDWR) }},
	{"open a file by its handle", openByHandle},
	// Network, and sockets of the host.
	{"connect to a port of the host", connectTCP},
	{"listen on a port of the host", listenTCP},
	{"send packets", func(Target) error { return socket(unix.AF_PACKET, unix.SOCK_RAW) }},
	{"change the host's network", func(Target) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW) }},
	{"connect to another program's socket", connectUnix},
	{"connect to another program's socket by its name", func(t Target) error { return connect(unix.AF_UNIX, &unix.SockaddrUnix{Name: "@" + t.Name}) }},
	{"connect to other guests", func(Target) error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM) }},
	{"use the kernel's ciphers", func(Target) error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET) }},
	// Other processes.
	{"trace a process", trace},
	{"read a process's memory", readMemory},
	{"signal a process", func(t Target) error { return unix.Kill(t.Process, 0) }},
	{"signal a thread", func(t Target) error { return unix.Tgkill(t.Process, t.Process, 0) }},
	{"signal a process through a descriptor", signalByDescriptor},
	{"signal a process through a pipe", signalByPipe},
	{"change a process's limits", func(t Target) error {
		var old unix.Rlimit
		return unix.Prlimit(t.Process, unix.RLIMIT_CORE, nil, &old)
	}},
	{"change a process's priority", func(t Target) error { return unix.Setpriority(unix.PRIO_PROCESS, t.Process, 1) }},
	{"pin a process", func(t Target) error {
		var set unix.CPUSet
		set.Set(0)
		return unix.SchedSetaffinity(t.Process, &set)
	}},
	{"execute a program", execute},
	{"be root", beRoot},
	{"become somebody else", func(Target) error { return call(unix.SYS_SETRESUID, ^uintptr(0), ^uintptr(0), ^uintptr(0)) }},
	// The kernel.
	{"mount", func(t Target) error { return unix.Mount("", t.Folder, "", unix.MS_PRIVATE, "") }},
	{"open a file system", func(Target) error { return call(unix.SYS_FSOPEN, 0, 0, 0) }},
	{"change the root", func(t Target) error { return call(unix.SYS_CHROOT, 0, 0, 0) }},
	{"make a user namespace", func(Target) error { return cloneWith(unix.CLONE_NEWUSER) }},
	{"make a mount namespace", func(Target) error { return cloneWith(unix.CLONE_NEWNS) }},
	{"unshare", func(Target) error { return call(unix.SYS_UNSHARE, 0, 0, 0) }},
	{"join a namespace", func(Target) error { return call(unix.SYS_SETNS, ^uintptr(0), 0, 0) }},
	{"make an io_uring", makeRing},
	{"load a program into the kernel", func(Target) error { return call(unix.SYS_BPF, ^uintptr(0), 0, 0) }},
	{"watch the processor", func(Target) error { return call(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0) }},
	{"read keys", func(Target) error { return call(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, sessionKeyring, 0) }},
	{"handle page faults", func(Target) error { return call(unix.SYS_USERFAULTFD, ^uintptr(0), 0, 0) }},
	{"load a module", func(Target) error { return call(unix.SYS_FINIT_MODULE, ^uintptr(0), 0, 0) }},
	{"start another kernel", func(Target) error { return call(unix.SYS_KEXEC_LOAD, 0, 17, 0) }},
	{"read the kernel's log", func(Target) error { return call(unix.SYS_SYSLOG, 10, 0, 0) }},
	{"change the clock", func(Target) error { return call(unix.SYS_CLOCK_SETTIME, 99, 0, 0) }},
	{"allow ports", func(Target) error { return call(unix.SYS_IOPL, 0, 0, 0) }},
	{"make memory of others", func(Target) error { return call(unix.SYS_SHMGET, 0, 0, 0o600) }},
	{"make memory executable", executableMemory},
	{"undo the filter", func(Target) error { return call(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, 0, 0) }},
}

// seeUpwards looks for a file of an absolute path from the working directory, beyond
// a root that ends there.
func seeUpwards(path string) error {
	_, err := os.Stat(strings.Repeat("../", 40) + path[1:])
	return err
}

// seeThroughOpen looks for a file of the host from every directory that is open.
func seeThroughOpen() error {
	for fd := range 1024 {
		var st unix.Stat_t
		if unix.Fstatat(fd, strings.Repeat("../", 40)+"etc/passwd", &st, 0) == nil {
			return nil
		}
	}
	return unix.ENOENT
}
