package prepare

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/guestproto"
)

func TestSizeOfAPodsVM(t *testing.T) {
	for _, c := range []struct {
		name        string
		annotations map[string]string
		cpus        float64
		memory      uint64
	}{
		{"nothing said", nil, 1, DefaultMemory},
		{"containerd's words", map[string]string{sandboxMemory: "1073741824", sandboxQuota: "150000", sandboxPeriod: "100000"}, 2, 1000 << 20},
		{"nothing limited", map[string]string{sandboxMemory: "0", sandboxQuota: "0", sandboxPeriod: "100000"}, 1, DefaultMemory},
		{"no limits", map[string]string{sandboxMemory: "-1", sandboxQuota: "-1", sandboxPeriod: "100000"}, 1, DefaultMemory},
		{"hvctl's words", map[string]string{sandboxMemory: "1073741824", AnnotationMemory: "268435456", AnnotationCPUs: "3"}, 3, 256 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			// A sandbox's own limits, which are for a program that waits.
			s := bundle(func(s *specs.Spec) {
				s.Annotations = c.annotations
				s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: new(uint64(2)), Quota: new(int64(900_000))}
				s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(1 << 20))}
			})
			sized, err := podSized(s)
			if err != nil {
				t.Fatal(err)
			}
			if cpus, err := ociCPUs(sized); err != nil || cpus != c.cpus {
				t.Errorf("%v processors, %v; want %v", cpus, err, c.cpus)
			}
			if memory, err := ociMemory(sized); err != nil || memory != c.memory {
				t.Errorf("%d bytes, %v; want %d", memory, err, c.memory)
			}
		})
	}
	if _, err := podSized(bundle(func(s *specs.Spec) { s.Annotations[sandboxMemory] = "much" })); err == nil || !strings.Contains(err.Error(), sandboxMemory) {
		t.Errorf("no number: %v", err)
	}
}

// member is a container as a pod's engine asks for it, changed by edit.
func member(edit func(*specs.Spec)) *specs.Spec {
	return bundle(func(s *specs.Spec) {
		s.Linux.Namespaces = []specs.LinuxNamespace{
			{Type: specs.NetworkNamespace, Path: "/n"}, {Type: specs.IPCNamespace, Path: "/i"}, {Type: specs.UTSNamespace, Path: "/u"},
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
		}
		if edit != nil {
			edit(s)
		}
	})
}

func TestLimitsOfAMemberAreTheGuests(t *testing.T) {
	m, err := New(Options{}).Member(member(func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: new(int64(32 << 20))}, Pids: &specs.LinuxPids{Limit: new(int64(50))},
			CPU: &specs.LinuxCPU{Quota: new(int64(50_000))},
		}
	}))
	want := guestproto.Limits{PIDs: 50, MemoryBytes: 32 << 20, CPUQuotaUs: 50_000, CPUPeriodUs: 100_000}
	if err != nil || m.Limits != want || m.SharePIDs {
		t.Errorf("%+v, %v; want %+v", m, err, want)
	}
	m, err = New(Options{}).Member(member(func(s *specs.Spec) {
		s.Linux.Namespaces[3].Path = "/p"
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(-1))}
	}))
	if err != nil || m.Limits != (guestproto.Limits{}) || !m.SharePIDs {
		t.Errorf("%+v, %v; want no limits, and the pod's processes", m, err)
	}
}

func TestMemberThatNoPodCanHaveIsRefusedByField(t *testing.T) {
	for want, edit := range map[string]func(*specs.Spec){
		"ipc":                   func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "" },
		"uts":                   func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "" },
		"without a PID":         func(s *specs.Spec) { s.Linux.Namespaces[3].Type = specs.CgroupNamespace },
		"user":                  func(s *specs.Spec) { s.Linux.Namespaces[4].Type = specs.UserNamespace },
		"linux.devices":         func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x"}} },
		"process.selinuxLabel":  func(s *specs.Spec) { s.Process.SelinuxLabel = "x" },
		"vm: the VM is the pod": func(s *specs.Spec) { s.VM = &specs.VM{HwConfig: &specs.HWConfig{}} },
	} {
		t.Run(want, func(t *testing.T) {
			if _, err := New(Options{}).Member(member(edit)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want %q in it", err, want)
			}
		})
	}
}
