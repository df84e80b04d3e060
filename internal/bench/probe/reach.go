package probe

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What Reach says of something that it could get at; what it could not begins
// with Out.
const (
	In  = "yes"
	Out = "no: "
)

// Attempts are opened, and at most some bytes of them read: nothing is changed.
var (
	devices = []string{"mem", "port", "kmsg", "kvm", "loop-control", "mapper/control", "fuse", "net/tun"}
	secrets = []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/sched_debug", "/proc/latency_stats", "/sys/firmware", "/sys/kernel/debug", "/sys/kernel/security"}
	levers  = []string{"/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/cgroup.procs"}
	kinds   = []string{"pid", "mnt", "net", "ipc", "uts", "cgroup", "user", "time"}
)

// Reach tells what a program gets at of the machine that it runs on: devices,
// files of the kernel, other processes, and values that are equal for all who
// share a kernel. mark is another program's Mark. Device files are made and
// removed in dir.
func Reach(dir, mark string) (facts []Fact) {
	attempt := func(name string, err error) {
		v := In
		if err != nil {
			v = Out + reason(err)
		}
		facts = append(facts, Fact{name, v})
	}
	for _, d := range devices {
		attempt("open /dev/"+d, opens("/dev/"+d, unix.O_RDONLY))
	}
	attempt("raw disks", rawDisks(dir))
	for _, s := range secrets {
		attempt("read "+s, reads(s))
	}
	for _, l := range levers {
		attempt("write "+l, opens(l, unix.O_WRONLY))
	}
	_, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 64))
	attempt("kernel log", err)
	attempt("kernel addresses", addresses())
	attempt(Process, sees(mark))
	value := func(name, v string, err error) {
		if err != nil {
			v = Out + reason(err)
		}
		facts = append(facts, Fact{name, v})
	}
	for _, k := range kinds {
		v, err := os.Readlink("/proc/self/ns/" + k)
		value("namespace "+k, v, err)
	}
	for _, v := range []struct{ name, file, line string }{
		{BootID, "/proc/sys/kernel/random/boot_id", ""}, {"time of boot", "/proc/stat", "btime"}, {"memory", "/proc/meminfo", "MemTotal"},
		{"processors", "/proc/cpuinfo", "processor"}, {"disks", "/proc/partitions", ""}, {"load", "/proc/loadavg", ""},
	} {
		b, err := os.ReadFile(v.file)
		value(v.name, linesOf(string(b), v.line), err)
	}
	return facts
}

// Facts that others mean by name.
const (
	BootID  = "boot id" // another one: another kernel
	Process = "a process of the host"
)

// linesOf are the lines that begin so, or a digest of many.
func linesOf(text, begin string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, begin) {
			b.WriteString(line)
		}
	}
	s := strings.TrimSpace(b.String())
	if strings.Contains(s, "\n") {
		return fmt.Sprintf("%d lines, sha256 %x", strings.Count(s, "\n")+1, sha256.Sum256([]byte(s)))
	}
	return s
}

// reason is an error without the name that it is about, which the fact has.
func reason(err error) string {
	var e unix.Errno
	if errors.As(err, &e) {
		return e.Error()
	}
	return err.Error()
}

func opens(path string, how int) error {
	fd, err := unix.Open(path, how|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// reads is an error unless there is something in it.
func reads(path string) error {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		all, err := os.ReadDir(path)
		if err == nil && len(all) == 0 {
			err = errors.New("empty")
		}
		return err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, make([]byte, 16))
	if err == nil && n == 0 {
		err = errors.New("empty")
	}
	return err
}

// rawDisks tries every disk that the kernel lists, by files of its own making.
func rawDisks(dir string) error {
	b, err := os.ReadFile("/proc/partitions")
	if err != nil {
		return err
	}
	tried := errors.New("none is listed")
	for line := range strings.Lines(string(b)) {
		var major, minor uint32
		if n, _ := fmt.Sscan(line, &major, &minor); n != 2 {
			continue
		}
		node := filepath.Join(dir, fmt.Sprintf("disk-%d-%d", major, minor))
		err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor)))
		if err == nil {
			err = opens(node, unix.O_RDONLY)
			_ = unix.Unlink(node)
		}
		if err == nil {
			return nil
		}
		tried = err
	}
	return tried
}

// addresses is an error where the kernel hides its own.
func addresses() error {
	fd, err := unix.Open("/proc/kallsyms", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b := make([]byte, 16)
	if _, err := unix.Read(fd, b); err != nil {
		return err
	}
	if len(bytes.Trim(b, "0")) == 0 {
		return errors.New("all are 0")
	}
	return nil
}

// Mark is how a process is known wherever it is seen: its name, and when it
// began.
func Mark() (string, error) { return mark("self") }

// mark reads /proc/PID/stat (proc(5)): the name stands in parentheses and may have
// any character; field 22, the 20th after it, is the time of its start.
func mark(pid string) (string, error) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "", err
	}
	s := string(b)
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return "", fmt.Errorf("/proc/%s/stat: %q", pid, s)
	}
	f := strings.Fields(s[end+1:])
	if len(f) < 20 {
		return "", fmt.Errorf("/proc/%s/stat: %q", pid, s)
	}
	return s[open+1:end] + "@" + f[19], nil
}

// sees is an error unless a process with that mark is seen.
func sees(want string) error {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, d := range all {
		if got, err := mark(d.Name()); err == nil && got == want {
			return nil
		}
	}
	return errors.New("none is seen")
}
