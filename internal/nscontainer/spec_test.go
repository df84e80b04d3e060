package nscontainer

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func newConfig(t *testing.T, o workload.SpecOptions) *workload.Config {
	t.Helper()
	o.Args, o.Hostname = []string{"sh"}, "box"
	s, err := workload.NewSpec(o)
	if err != nil {
		t.Fatal(err)
	}
	return &workload.Config{ID: "0123", Backend: "container", Spec: s, Net: workload.Network{Mode: workload.NetBridge}}
}

func hasNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// TestSpecConfinesByDefault: what nobody asked for is what container engines
// give.
func TestSpecConfinesByDefault(t *testing.T) {
	cfg := newConfig(t, workload.SpecOptions{})
	s := Spec(cfg, "/r", etcfiles.Creds{UID: 7, GID: 8, Groups: []uint32{8, 9}, Home: "/home/x"})
	if err := container.Validate(s); err != nil {
		t.Fatal(err)
	}
	if s.Linux.Seccomp == nil || s.Linux.Seccomp.DefaultAction != specs.ActErrno {
		t.Errorf("seccomp: %+v", s.Linux.Seccomp)
	}
	for _, kind := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.NetworkNamespace,
	} {
		if !hasNamespace(s, kind) {
			t.Errorf("no %s namespace", kind)
		}
	}
	for _, p := range []string{"/proc/kcore", "/proc/keys", "/sys/firmware"} {
		if !slices.Contains(s.Linux.MaskedPaths, p) {
			t.Errorf("%s is not masked", p)
		}
	}
	if !slices.Contains(s.Linux.ReadonlyPaths, "/proc/sys") {
		t.Error("/proc/sys can be written")
	}
	for _, m := range s.Mounts {
		if (m.Type == "sysfs" || m.Type == "cgroup") && !slices.Contains(m.Options, "ro") {
			t.Errorf("%s can be written", m.Destination)
		}
	}
	if c := s.Process.Capabilities; len(c.Inheritable)+len(c.Ambient) > 0 || slices.Contains(c.Bounding, "CAP_SYS_ADMIN") {
		t.Errorf("capabilities %+v", c)
	}
	if u := s.Process.User; u.UID != 7 || u.GID != 8 || !slices.Equal(u.AdditionalGids, []uint32{8, 9}) || u.Username != "" {
		t.Errorf("user %+v", u)
	}
	for _, kv := range []string{"HOME=/home/x", "HOSTNAME=box"} {
		if !slices.Contains(s.Process.Env, kv) {
			t.Errorf("environment %q lacks %s", s.Process.Env, kv)
		}
	}
	if s.Linux.CgroupsPath != "/hvctl/container-0123" || s.Root.Path != "/r" || s.Root.Readonly {
		t.Errorf("group %s, root %+v", s.Linux.CgroupsPath, s.Root)
	}
	if cfg.Spec.Linux != nil || cfg.Spec.Process.Env[len(cfg.Spec.Process.Env)-1] == "HOSTNAME=box" {
		t.Error("the configuration itself was changed")
	}
}

func TestSpecFollowsTheConfiguration(t *testing.T) {
	cfg := newConfig(t, workload.SpecOptions{Mounts: []specs.Mount{{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=3m"}}}})
	cfg.Net.Mode, cfg.Rootfs.ReadOnly = workload.NetHost, true
	cfg.Res = workload.Resources{
		CPUs: 1.5, MemoryBytes: 64 << 20, PIDs: 20, CPUWeight: 100, CgroupParent: "/machines",
		Deadline: &workload.Deadline{Runtime: time.Millisecond, Deadline: 2 * time.Millisecond, Period: 3 * time.Millisecond},
	}
	s := Spec(cfg, "/r", etcfiles.Creds{})
	if err := container.Validate(s); err != nil {
		t.Fatal(err)
	}
	if hasNamespace(s, specs.NetworkNamespace) {
		t.Error("a network namespace on the host's network")
	}
	r := s.Linux.Resources
	if *r.CPU.Quota != 150000 || *r.CPU.Period != 100000 || *r.Memory.Limit != 64<<20 || *r.Memory.Swap != 64<<20 || *r.Pids.Limit != 20 {
		t.Errorf("resources %+v", r)
	}
	if s.Linux.CgroupsPath != "/machines/container-0123" || !s.Root.Readonly {
		t.Errorf("group %s, root %+v", s.Linux.CgroupsPath, s.Root)
	}
	if d := s.Process.Scheduler; d == nil || d.Policy != specs.SchedDeadline || d.Runtime != 1e6 || d.Deadline != 2e6 || d.Period != 3e6 || len(d.Flags) != 1 {
		t.Errorf("scheduler %+v", d)
	}
	n := 0
	for _, m := range s.Mounts {
		if m.Destination == "/dev/shm" {
			n++
			if m.Source != "tmpfs" {
				t.Errorf("/dev/shm is %+v", m)
			}
		}
	}
	if n != 1 {
		t.Errorf("/dev/shm is mounted %d times", n)
	}
}

func TestStartErrorHasTheCodeOfContainers(t *testing.T) {
	for text, want := range map[string]int{
		`exec: "x": executable file not found in $PATH`:                            workload.ExitNotFound,
		`exec: "x": executable file not found in $PATH: no such file or directory`: workload.ExitNotFound,
		`exec: "/x": stat /x: no such file or directory`:                           workload.ExitNotFound,
		`exec: "/x/y": stat /x/y: not a directory`:                                 workload.ExitNotFound,
		`exec: "/x": its interpreter is missing: no such file or directory`:        workload.ExitNotFound,
		`exec in container "a": exec: "x": permission denied`:                      workload.ExitNotExecutable,
		`exec: "/usr": is a directory: permission denied`:                          workload.ExitNotExecutable,
		`exec: "/x": exec format error`:                                            workload.ExitNotExecutable,
		`process.cwd: chdir /none: no such file or directory`:                      workload.ExitNotFound,
		`mount /x: no such file or directory`:                                      0,
		`start the container's first process: fork/exec: operation not permitted`:  0,
	} {
		got := 0
		if se, ok := errors.AsType[*workload.StartError](startError(errors.New(text))); ok {
			got = se.Code
		}
		if got != want {
			t.Errorf("%s: code %d, want %d", text, got, want)
		}
		if said := startError(errors.New(text)).Error(); strings.Contains(said, "$PATH:") {
			t.Errorf("%s: is said as %s", text, said)
		}
	}
}

func TestDeadlineThatCannotBeKeptIsExplained(t *testing.T) {
	c := &Container{cfg: &workload.Config{Res: workload.Resources{Deadline: &workload.Deadline{Runtime: 1, Deadline: 2, Period: 2}}}}
	err := c.explain(errors.New("process.scheduler: device or resource busy"))
	if !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
	if other := errors.New("mount /x: device or resource busy"); c.explain(other) != other { //nolint:errorlint // the same value
		t.Error("another error was explained")
	}
}

// A device that the configuration names may be used by the container's group, and no
// other is allowed for it.
func TestSpecAllowsTheDevicesItIsGiven(t *testing.T) {
	cfg := newConfig(t, workload.SpecOptions{})
	if s := Spec(cfg, "/r", etcfiles.Creds{}); len(s.Linux.Resources.Devices) != 0 {
		t.Errorf("nothing given: %+v", s.Linux.Resources.Devices)
	}
	cfg.Spec.Linux = &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/bench", Type: "b", Major: 7, Minor: 3}}}
	got := Spec(cfg, "/r", etcfiles.Creds{}).Linux.Resources.Devices
	if len(got) != 1 || !got[0].Allow || got[0].Type != "b" || *got[0].Major != 7 || *got[0].Minor != 3 || got[0].Access != "rwm" {
		t.Errorf("%+v", got)
	}
}
