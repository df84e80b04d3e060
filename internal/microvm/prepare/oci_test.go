package prepare

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// bundle is the least that a VM needs, changed by edit.
func bundle(edit func(*specs.Spec)) *specs.Spec {
	s := &specs.Spec{
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/"}, Annotations: map[string]string{},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}, Resources: &specs.LinuxResources{}},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

func TestSizeOfABundlesVM(t *testing.T) {
	for _, c := range []struct {
		name   string
		edit   func(*specs.Spec)
		cpus   float64
		memory uint64
	}{
		{"nothing asked", nil, 1, DefaultMemory},
		{"quota of a processor and a half", func(s *specs.Spec) {
			s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: new(int64(150_000)), Period: new(uint64(100_000))}
		}, 2, DefaultMemory},
		{"quota without a period", func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: new(int64(250_000))} }, 3, DefaultMemory},
		{"no quota", func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: new(int64(-1))} }, 1, DefaultMemory},
		{"memory limit", func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(256 << 20))} }, 1, 232 << 20},
		{"no memory limit", func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(-1))} }, 1, DefaultMemory},
		{"annotations", func(s *specs.Spec) {
			s.Annotations[AnnotationCPUs], s.Annotations[AnnotationMemory] = "4", "1073741824"
		}, 4, 1 << 30},
		{"hardware section before all", func(s *specs.Spec) {
			s.Annotations[AnnotationCPUs] = "4"
			s.VM = &specs.VM{HwConfig: &specs.HWConfig{VCPUs: new(uint32(2)), Memory: new(uint64(128 << 20))}}
		}, 2, 128 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := bundle(c.edit)
			cpus, err := ociCPUs(s)
			if err != nil || cpus != c.cpus {
				t.Errorf("%v processors, %v; want %v", cpus, err, c.cpus)
			}
			memory, err := ociMemory(s)
			if err != nil || memory != c.memory {
				t.Errorf("%d bytes, %v; want %d", memory, err, c.memory)
			}
		})
	}
}

func TestBundleThatNoVMCanBeIsRefusedByField(t *testing.T) {
	for want, edit := range map[string]func(*specs.Spec){
		"process":                       func(s *specs.Spec) { s.Process = nil },
		"linux.namespaces":              func(s *specs.Spec) { s.Linux.Namespaces = nil },
		"linux.devices":                 func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x"}} },
		"linux.resources.memory.limit":  func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(80 << 20))} },
		AnnotationCPUs + `="0"`:         func(s *specs.Spec) { s.Annotations[AnnotationCPUs] = "0" },
		AnnotationMemory + `="1G"`:      func(s *specs.Spec) { s.Annotations[AnnotationMemory] = "1G" },
		"vm.image":                      func(s *specs.Spec) { s.VM = &specs.VM{Image: specs.VMImage{Path: "/x"}} },
		"vm.hypervisor":                 func(s *specs.Spec) { s.VM = &specs.VM{Hypervisor: specs.VMHypervisor{Path: "/x"}} },
		"vm.kernel.initrd":              func(s *specs.Spec) { s.VM = &specs.VM{Kernel: specs.VMKernel{InitRD: "/x"}} },
		"domainname":                    func(s *specs.Spec) { s.Domainname = "x" },
		"process.apparmorProfile":       func(s *specs.Spec) { s.Process.ApparmorProfile = "x" },
		"linux.personality":             func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{} },
		"--cpus 1000: a VM has 1 to 64": func(s *specs.Spec) { s.Annotations[AnnotationCPUs] = "1000" },
		"linux.mountLabel":              func(s *specs.Spec) { s.Linux.MountLabel = "x" },
	} {
		t.Run(want, func(t *testing.T) {
			_, err := New(Options{}).OCI(t.Context(), "id", bundle(edit))
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want %q in it", err, want)
			}
		})
	}
}
