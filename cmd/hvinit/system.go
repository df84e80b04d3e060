package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// initrdDir is where the initramfs keeps what belongs to hvinit.
const initrdDir = "/hvctl"

// vsockModule is the module after which the host can be dialed.
const vsockModule = "vmw_vsock_virtio_transport"

// mountOwn mounts hvinit's own /proc and, on a real boot, /sys, /dev and the
// cgroup hierarchy.
func mountOwn(realBoot bool) error {
	const safe = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	if !realBoot {
		return mount("proc", "/proc", "proc", safe, "")
	}
	for _, m := range []struct {
		target, fstype string
		flags          uintptr
	}{
		{"/proc", "proc", safe},
		{"/sys", "sysfs", safe},
		{"/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := mount(m.fstype, m.target, m.fstype, m.flags, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	// A kernel without cgroups runs the workload without statistics.
	_ = mount("cgroup2", cgroupRoot, "cgroup2", safe, "")
	return nil
}

// loadModules loads what dir/modules lists, one file per line, in order. It
// calls vsock once the host can be dialed, at the latest at the end. A module
// that does not load is reported and left out: the kernel may have it built in,
// and what really needs it fails with a better message.
func loadModules(dir string, vsock func(), warn func(string, error)) {
	defer vsock()
	b, err := os.ReadFile(dir + "/modules")
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			warn("read the list of modules", err)
		}
		return
	}
	for line := range strings.Lines(string(b)) {
		name := strings.TrimSpace(line)
		if name == "" {
			continue
		}
		if err := loadModule(dir + "/" + name); err != nil {
			warn("load the kernel module "+name, err)
		}
		if strings.Contains(name, vsockModule+".") {
			vsock()
		}
	}
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return os.NewSyscallError("finit_module", err)
	}
	return nil
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	release, _, _ := bytes.Cut(u.Release[:], []byte{0})
	return string(release)
}

// uptime is the time since the kernel started, in nanoseconds.
func uptime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ts.Nano()
}

func setClock(unixNano int64) error {
	ts := unix.NsecToTimespec(unixNano)
	return os.NewSyscallError("clock_settime", unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
}

// reseed credits entropy and makes the generator use it at once.
func reseed(entropy []byte) error {
	if len(entropy) < 16 || len(entropy) > 4096 {
		return stateErr("%d bytes of entropy, want 16 to 4096", len(entropy))
	}
	fd, err := unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := addEntropy(fd, entropy); err != nil {
		return os.NewSyscallError("RNDADDENTROPY", err)
	}
	const rndReseedCRNG = 0x5207 // _IO('R', 7)
	if err := unix.IoctlSetInt(fd, rndReseedCRNG, 0); err != nil && err != unix.ENODATA {
		return os.NewSyscallError("RNDRESEEDCRNG", err)
	}
	return nil
}

func setSysctls(all map[string]string) error {
	for key, value := range all {
		if err := setSysctl(key, value); err != nil {
			return err
		}
	}
	return nil
}

func setSysctl(key, value string) error {
	for _, part := range strings.FieldsFunc(key, func(r rune) bool { return r == '.' || r == '/' }) {
		if strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			return stateErr("sysctl %q is not a name", key)
		}
	}
	name := strings.ReplaceAll(key, ".", "/")
	if name == "" || name[0] == '/' || strings.Contains(name, "//") {
		return stateErr("sysctl %q is not a name", key)
	}
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		return fmt.Errorf("sysctl %s=%s: %w", key, value, err)
	}
	return nil
}

// freeze flushes the writable disk and blocks further writes, or lets them go
// on. A root in RAM has nothing to flush.
func (m *manager) freeze(on bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	const fiFreeze, fiThaw = 0xc0045877, 0xc0045878 // _IOWR('X', 119 and 120, int)
	req, name := uint(fiFreeze), "FIFREEZE"
	if !on {
		req, name = fiThaw, "FITHAW"
	}
	if on == m.frozen {
		if on {
			return stateErr("the disks are frozen already")
		}
		return stateErr("the disks are not frozen")
	}
	if on {
		unix.Sync()
	}
	if r := m.disk(); r != nil {
		dir, err := os.Open(r.upper)
		if err != nil {
			return err
		}
		defer dir.Close()
		if err := unix.IoctlSetInt(int(dir.Fd()), req, 0); err != nil {
			return os.NewSyscallError(name, err)
		}
	}
	m.frozen = on
	return nil
}

// disk is the root whose writable layer is on a disk; nil: there is none.
// Preconditions: m.mu is held.
func (m *manager) disk() *root {
	if c := m.containers[""]; c != nil && c.root != nil && c.root.disk {
		return c.root
	}
	return nil
}

// stats serves Stats.
func (m *manager) stats() (guestproto.Stats, error) {
	m.mu.Lock()
	c := m.cgroup
	m.mu.Unlock()
	s := guestproto.Stats{UptimeNs: uptime()}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		s.TotalBytes = field(string(b), "MemTotal") << 10
		s.AvailableBytes = field(string(b), "MemAvailable") << 10
	}
	if c == nil {
		return s, nil
	}
	if b, err := os.ReadFile(c.dir + "/cpu.stat"); err == nil {
		s.CPUUsageUs = field(string(b), "usage_usec")
		s.CPUUserUs = field(string(b), "user_usec")
		s.CPUSystemUs = field(string(b), "system_usec")
	}
	s.MemoryBytes, s.MemoryPeakBytes = c.value("memory.current"), c.value("memory.peak")
	s.OOMKills, s.PIDs = c.field("memory.events", "oom_kill"), c.value("pids.current")
	return s, nil
}

// drainWait bounds how long the processes that remain when the first one has
// ended, or when a container is removed, may take to be killed and reported.
const drainWait = 5 * time.Second

// within waits until wait returns, but not for longer than limit.
func within(limit time.Duration, wait func()) {
	done := make(chan struct{})
	go func() {
		wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
}

// powerOff ends the machine in order: processes, messages, disks.
func (m *manager) powerOff() {
	m.mu.Lock()
	m.stopping = true
	r, frozen := m.disk(), m.frozen
	m.cgroup.kill()
	m.mu.Unlock()
	if frozen {
		_ = m.freeze(false)
	}
	if os.Getpid() == 1 {
		_ = unix.Kill(-1, unix.SIGKILL)
	}
	within(drainWait, m.idle.Wait)
	m.host.finish()
	unix.Sync()
	if r != nil {
		// Nothing writes any more: leave a file system that needs no repair.
		_ = unix.Mount("", r.upper, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	end(m.cfg.realBoot, 0)
}

// end stops the machine, or, in a test, the program.
func end(realBoot bool, code int) {
	if realBoot {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	os.Exit(code)
}

// say prints on the console, which is all there is before the host is reached.
func say(w io.Writer, text string) {
	b := bufio.NewWriter(w)
	_, _ = b.WriteString("hvinit: " + text + "\n")
	_ = b.Flush()
}
