package nscontainer

import (
	"slices"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/seccomp"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// standardMounts are in every container. The options are container engines'.
var standardMounts = []specs.Mount{
	{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
	{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
	{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
	{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
	{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
}

// What the kernel shows in /proc and /sys of the host, and not of the
// container.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// Spec is the whole OCI configuration: what the user and the image said, and
// what every container has. root is where its root file system is mounted; who
// is its user, as the image has it.
func Spec(cfg *workload.Config, root string, who etcfiles.Creds) *specs.Spec {
	s := *cfg.Spec
	p := *s.Process
	identify(cfg, &p, who)
	if d := cfg.Res.Deadline; d != nil {
		// Reset on fork: the kernel lets nobody else inherit such a promise.
		p.Scheduler = &specs.Scheduler{
			Policy: specs.SchedDeadline, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork},
			Runtime: uint64(d.Runtime), Deadline: uint64(d.Deadline), Period: uint64(d.Period),
		}
	}
	s.Process = &p
	s.Root = &specs.Root{Path: root, Readonly: cfg.Rootfs.ReadOnly || s.Root != nil && s.Root.Readonly}
	s.Mounts = mounts(s.Mounts)
	l := specs.Linux{}
	if s.Linux != nil {
		l = *s.Linux
	}
	l.CgroupsPath = cfg.GroupPath()
	l.Resources = resources(cfg.Res)
	for _, d := range l.Devices { // what it is given, it may use
		l.Resources.Devices = append(l.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: "rwm"})
	}
	l.Namespaces = namespaces(cfg.Net.Mode)
	l.MaskedPaths, l.ReadonlyPaths = maskedPaths, readonlyPaths
	switch {
	case l.Seccomp == nil:
		l.Seccomp = seccomp.Default(p.Capabilities.Bounding)
	case l.Seccomp.DefaultAction == specs.ActAllow && len(l.Seccomp.Syscalls) == 0:
		l.Seccomp = nil // a filter that lets everything pass only costs time
	}
	s.Linux = &l
	return &s
}

// mounts are the standard ones, without those whose place a user took, and the
// user's.
func mounts(users []specs.Mount) []specs.Mount {
	var out []specs.Mount
	for _, m := range standardMounts {
		if !slices.ContainsFunc(users, func(u specs.Mount) bool { return u.Destination == m.Destination }) {
			out = append(out, m)
		}
	}
	return append(out, users...)
}

func namespaces(network string) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
	}
	if network != workload.NetHost {
		out = append(out, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	return out
}

// resources are limits in OCI's words.
func resources(r workload.Resources) *specs.LinuxResources {
	out := cgroup.Limits{CPUs: r.CPUs, Weight: r.CPUWeight, Tasks: r.PIDs, IO: r.BlockIO}.Resources()
	if r.MemoryBytes > 0 {
		n := int64(r.MemoryBytes)
		// No swap on top: in a VM there is none either.
		out.Memory = &specs.LinuxMemory{Limit: &n, Swap: &n}
	}
	return out
}
