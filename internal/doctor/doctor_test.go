package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
)

func find(t *testing.T, all []Check, name string) Check {
	t.Helper()
	for _, c := range all {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %q", name)
	return Check{}
}

func TestEveryCheckExplainsItself(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Run(Options{Root: t.TempDir(), Store: t.TempDir()}) {
		if c.Name == "" || c.Detail == "" || c.Why == "" || seen[c.Name] {
			t.Errorf("incomplete: %+v", c)
		}
		seen[c.Name] = true
		if (c.Status == OK) != (c.Fix == "") {
			t.Errorf("%s is %s with fix %q", c.Name, c.Status, c.Fix)
		}
		if c.Status != OK && c.Status != Warn && c.Status != Fail {
			t.Errorf("status %q", c.Status)
		}
	}
}

func TestHostWithNothing(t *testing.T) {
	sys := t.TempDir()
	all := Run(Options{
		Sys: sys, Root: "/proc/nowhere", Store: t.TempDir(),
		DefaultKernel: func() (string, error) { return "", errors.New("no kernel yet") },
		Helpers:       map[string]error{"hvctl-vmm": errors.New("hvctl-vmm: not found")},
	})
	if Usable(all) || ContainersUsable(all) {
		t.Error("VMs or containers would be said to work")
	}
	for name, want := range map[string]Status{
		"kvm": Fail, "kvm-mode": Warn, "kernel": Warn, "programs": Fail, "store": OK, "tap": Warn, "vhost-net": Warn, "memory": Warn, "cgroup": Warn, "containers": Warn,
	} {
		if c := find(t, all, name); c.Status != want {
			t.Errorf("%s is %s (%s), want %s", name, c.Status, c.Detail, want)
		}
	}
	if c := find(t, all, "kvm"); !strings.Contains(c.Fix, "firmware") {
		t.Errorf("fix without processor support: %s", c.Fix)
	}
}

func TestContainersNameWhatIsMissing(t *testing.T) {
	sys := t.TempDir()
	for _, d := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup"} {
		if err := os.MkdirAll(filepath.Join(sys, "proc/self/ns", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(sys, "proc/filesystems"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("nodev\tproc\nnodev\toverlay\n\terofs\n")
	if c := containers(Options{Sys: sys}); c.Status != OK {
		t.Errorf("%+v", c)
	}
	if c := containers(Options{Sys: sys, UID: 1000}); c.Status != OK || !strings.Contains(c.Detail, "user namespaces") {
		t.Errorf("%+v", c)
	}
	if err := os.MkdirAll(filepath.Join(sys, "proc/sys/user"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sys, "proc/sys/user/max_user_namespaces"), []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if c := containers(Options{Sys: sys, UID: 1000}); c.Status != Warn || !strings.Contains(c.Fix, "sysctl user.max_user_namespaces") {
		t.Errorf("%+v", c)
	}
	write("nodev\toverlayx\n")
	if c := containers(Options{Sys: sys}); c.Status != Warn || c.Fix != "modprobe overlay" {
		t.Errorf("%+v", c)
	}
}

func TestKVMMissingModule(t *testing.T) {
	sys := t.TempDir()
	if err := os.MkdirAll(filepath.Join(sys, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sys, "proc/cpuinfo"), []byte("processor\t: 0\nflags\t\t: fpu vmx sse\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if c := kvmDevice(Options{Sys: sys}); c.Status != Fail || !strings.Contains(c.Fix, "modprobe") {
		t.Errorf("%+v", c)
	}
	if !hasFlag(Options{Sys: sys}, "vmx") || hasFlag(Options{Sys: sys}, "svm") || hasFlag(Options{Sys: sys}, "vm") {
		t.Error("flags misread")
	}
}

func TestPVMIsInterpreted(t *testing.T) {
	sys := t.TempDir()
	if err := os.MkdirAll(filepath.Join(sys, "sys/module/kvm_pvm"), 0o755); err != nil {
		t.Fatal(err)
	}
	if m, why := DetectMode(sys); m != Interpreted || !strings.Contains(why, "kvm_pvm") {
		t.Errorf("%s: %s", m, why)
	}
	if c := kvmMode(Options{Sys: sys}); c.Status != Fail || c.Fix == "" {
		t.Errorf("%+v", c)
	}
}

// The timed loop agrees with what the module list says.
func TestGuestIsTimed(t *testing.T) {
	testenv.Require(t, testenv.KVM)
	d, err := timeGuest("/dev/kvm")
	if err != nil {
		t.Fatal(err)
	}
	_, pvm := os.Stat("/sys/module/kvm_pvm")
	if pvm == nil && d <= interpretedAbove {
		t.Errorf("%v on an interpreting host", d)
	}
	t.Logf("%d loops took %v", loopCount, d)
}
