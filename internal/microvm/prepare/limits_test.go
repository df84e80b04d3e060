package prepare

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestOwnerLimits(t *testing.T) {
	cpu := func(q int64) *specs.LinuxCPU { return &specs.LinuxCPU{Quota: &q, Period: new(uint64(100000))} }
	io := specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{Rate: 1}}}
	for _, tc := range []struct {
		name     string
		res      workload.Resources
		raw      bool
		want     specs.LinuxResources
		required bool
	}{
		{"nothing asked", workload.Resources{MemoryBytes: 1 << 30}, false, specs.LinuxResources{}, false},
		{"processors", workload.Resources{CPUs: 2}, false, specs.LinuxResources{CPU: cpu(200000)}, false},
		{"half a processor", workload.Resources{CPUs: 0.5}, false, specs.LinuxResources{CPU: cpu(50000)}, true},
		{"a machine of its own", workload.Resources{CPUs: 2}, true, specs.LinuxResources{}, false},
		{"weight", workload.Resources{CPUWeight: 100}, false, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(cgroup.SharesFromWeight(100))}}, true},
		{"processes", workload.Resources{PIDs: 10}, false, specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(10 + ownThreads))}}, false},
		{"a device", workload.Resources{BlockIO: &io}, false, specs.LinuxResources{BlockIO: &io}, true},
		{"parent", workload.Resources{CgroupParent: "/x"}, false, specs.LinuxResources{}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, required := New(Options{}).OwnerLimits(&workload.Config{Res: tc.res, VM: workload.VM{Raw: tc.raw}})
			if required != tc.required || !reflect.DeepEqual(*r, tc.want) {
				t.Errorf("got %+v (cpu %+v), required %v", r, r.CPU, required)
			}
		})
	}
}

func TestMemoryThatMayGrow(t *testing.T) {
	for _, tc := range []struct {
		name string
		vm   workload.VM
		want string // "": it is fine
	}{
		{"not at all", workload.VM{}, ""},
		{"not by anything", workload.VM{MaxMemoryBytes: 64 << 20}, ""},
		{"to as much as there can be", workload.VM{MaxMemoryBytes: 255 << 30}, ""},
		{"to less", workload.VM{MaxMemoryBytes: 63 << 20}, "starts with 64 MiB"},
		{"to more than there can be", workload.VM{MaxMemoryBytes: 256 << 30}, "to 261120"},
		{"of the host's pool", workload.VM{MaxMemoryBytes: 1 << 30, HugePages: true}, "--hugepages"},
	} {
		tc.vm.Transport = "mmio"
		err := check(&workload.Config{Res: workload.Resources{MemoryBytes: 64 << 20}, VM: tc.vm, Spec: &specs.Spec{}})
		if (err == nil) != (tc.want == "") || err != nil && (!errors.Is(err, workload.ErrUnsupported) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	for _, grows := range []bool{false, true} {
		c := &workload.Config{}
		if grows {
			c.VM.MaxMemoryBytes = 1
		}
		if got := needed("virtio_mem", c); got != grows {
			t.Errorf("memory grows: %v, the module is needed: %v", grows, got)
		}
	}
}

func TestWhatAVMCannotDoIsRefusedByName(t *testing.T) {
	tmpfs := func(dest, source string) specs.Spec {
		return specs.Spec{Mounts: []specs.Mount{{Destination: dest, Type: "tmpfs", Source: source}}}
	}
	linux := func(l specs.Linux) specs.Spec { return specs.Spec{Linux: &l} }
	process := func(p specs.Process) specs.Spec { return specs.Spec{Process: &p} }
	for _, tc := range []struct {
		name string
		spec specs.Spec
		want string // "": it is fine
	}{
		{"nothing", specs.Spec{}, ""},
		{"scratch space", tmpfs("/scratch", "tmpfs"), ""},
		{"shared memory as in every bundle", tmpfs("/dev/shm", "shm"), ""},
		{"shared memory of one's own", tmpfs("/dev/shm", "tmpfs"), ""},
		{"tmpfs on /proc", tmpfs("/proc", "tmpfs"), "tmpfs on /proc"},
		{"tmpfs on /sys", tmpfs("/sys", "tmpfs"), "tmpfs on /sys"},
		{"volume", specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Type: "bind", Source: "/", Options: []string{"rbind", "ro"}}}}, ""},
		{"volume that is not there", specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Type: "bind", Source: "/nonexistent"}}}, "mounts[0] (bind on /data).source: stat /nonexistent"},
		{"volume with propagation", specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Type: "bind", Source: "/", Options: []string{"rshared"}}}}, "rshared"},
		{"file system of the host's", specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Type: "nfs", Source: "x:/"}}}, "nfs on /data"},
		{"hooks", specs.Spec{Hooks: &specs.Hooks{}}, "hooks"},
		{"domain", specs.Spec{Domainname: "x"}, "domainname"},
		{"seccomp", linux(specs.Linux{Seccomp: &specs.LinuxSeccomp{}}), ""},
		{"masked paths", linux(specs.Linux{MaskedPaths: []string{"/proc/kcore"}}), ""},
		{"read-only paths", linux(specs.Linux{ReadonlyPaths: []string{"/proc/sys"}}), ""},
		{"AppArmor", process(specs.Process{ApparmorProfile: "x"}), "process.apparmorProfile"},
		{"SELinux", process(specs.Process{SelinuxLabel: "x"}), "process.selinuxLabel"},
		{"scheduler", process(specs.Process{Scheduler: &specs.Scheduler{}}), "process.scheduler"},
		{"mount label", linux(specs.Linux{MountLabel: "x"}), "linux.mountLabel"},
		{"a namespace of the host", linux(specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "network", Path: "/proc/1/ns/net"}}}), "linux.namespaces[0].path"},
		{"namespaces of its own", linux(specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "network"}}}), ""},
		{"resources", linux(specs.Linux{Resources: &specs.LinuxResources{Unified: map[string]string{"a.b": "c"}}}), "linux.resources"},
		{"sysctl", linux(specs.Linux{Sysctl: map[string]string{"a": "b"}}), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := errors.Join(refuse(&tc.spec)...)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want one that names %q", err, tc.want)
			}
		})
	}
	c := &workload.Config{Spec: &specs.Spec{Hooks: &specs.Hooks{}}, Res: workload.Resources{MemoryBytes: DefaultMemory}, VM: workload.VM{Transport: "mmio"}}
	if err := check(c); !errors.Is(err, workload.ErrUnsupported) {
		t.Errorf("check: %v", err)
	}
}
