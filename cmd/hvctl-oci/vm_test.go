package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestVMFilesLeadNowhere: what the owner of a VM is handed of the host is of no
// further use to a guest that took the owner over, though it is root.
func TestVMFilesLeadNowhere(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "given"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"secret", "given/file"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	given, err := mountOf(filepath.Join(dir, "given"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	for name, ok := range map[string]bool{"file": true, "../secret": false, "../../../../etc/passwd": false} {
		fd, err := unix.Openat(int(given.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		if (err == nil) != ok {
			t.Errorf("open of %s below the directory: %v", name, err)
		}
	}
	fd, err := unix.Openat(int(given.Fd()), "new", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatalf("logs cannot be written: %v", err)
	}
	unix.Close(fd)

	file, err := readOnly(filepath.Join(dir, "given/file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, flags := range []int{os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC} {
		f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), flags, 0)
		if err == nil {
			f.Close()
			t.Errorf("opened for writing again, with flags %#x", flags)
		}
	}
	cache, err := mountOf(filepath.Join(dir, "given"), true)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	if fd, err := unix.Openat(int(cache.Fd()), "new", unix.O_WRONLY|unix.O_CLOEXEC, 0); err != unix.EROFS {
		unix.Close(fd)
		t.Errorf("a file of a read-only directory was opened for writing: %v", err)
	}
}

// TestSandboxesAreKnown by what engines say, or by what they run.
func TestSandboxesAreKnown(t *testing.T) {
	for _, tc := range []struct {
		name        string
		annotations map[string]string
		args        []string
		want        bool
	}{
		{"containerd's", map[string]string{"io.kubernetes.cri.container-type": "sandbox"}, []string{"/pause"}, true},
		{"CRI-O's", map[string]string{"io.kubernetes.cri-o.ContainerType": "sandbox"}, []string{"anything"}, true},
		{"podman's", nil, []string{"/catatonit", "-P"}, true},
		{"podman's of old", nil, []string{"/pause"}, true},
		{"a container of a pod", map[string]string{"io.kubernetes.cri.container-type": "container"}, []string{"httpd"}, false},
		{"an init", nil, []string{"/catatonit", "--", "httpd"}, false},
		{"a program called pause", nil, []string{"/bin/pause", "5"}, false},
		{"nothing", nil, nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &specs.Spec{Annotations: tc.annotations, Process: &specs.Process{Args: tc.args}}
			if got := isSandbox(s); got != tc.want {
				t.Errorf("a sandbox: %v", got)
			}
		})
	}
	if isSandbox(&specs.Spec{}) {
		t.Error("a container without a process is taken for a sandbox")
	}
}

// Engines give a sandbox next to nothing, for it only waits; and a member's limits
// can be less than what its client needs.
func TestLimitsInAPodAreNotForHvctlsOwnPrograms(t *testing.T) {
	s := &specs.Spec{
		Process: &specs.Process{Args: []string{"/pause"}},
		Linux: &specs.Linux{Resources: &specs.LinuxResources{
			CPU: &specs.LinuxCPU{Shares: new(uint64(2))}, Pids: &specs.LinuxPids{Limit: new(int64(1))}, Memory: &specs.LinuxMemory{Limit: new(int64(1 << 20))},
		}},
	}
	o := podOuterSpec(s, "verb")
	if r := o.Linux.Resources; r.CPU != nil || r.Pids != nil || r.Memory != nil {
		t.Errorf("limits %+v", r)
	}
	if s.Linux.Resources.CPU == nil {
		t.Error("the bundle's own configuration was changed")
	}
	if len(o.Linux.Resources.Devices) != 2 {
		t.Errorf("devices: %+v", o.Linux.Resources.Devices)
	}
}
