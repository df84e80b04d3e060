package container_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The labels of testdata/selinux.cil.
const (
	hostLabel     = "u:r:host"
	confinedLabel = "u:r:confined"
	secretLabel   = "u:object_r:secret"
)

// enforcePolicy loads the tests' policy into a kernel that has none. There is
// no way back.
func enforcePolicy(t *testing.T) {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.SELinux)
	const at = "/sys/fs/selinux"
	if err := unix.Mount("selinuxfs", at, "selinuxfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(at + "/policy"); err == nil && len(b) > 0 {
		t.Fatal("this kernel has a policy already")
	}
	policy := filepath.Join(t.TempDir(), "policy")
	if out, err := exec.Command("secilc", "-c", "33", "-f", os.DevNull, "-o", policy, "testdata/selinux.cil").CombinedOutput(); err != nil {
		t.Fatalf("secilc: %v: %s", err, out)
	}
	b, err := os.ReadFile(policy)
	if err == nil {
		err = os.WriteFile(at+"/load", b, 0)
	}
	if err == nil {
		err = os.WriteFile(at+"/enforce", []byte("1"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSELinuxLabelsHold: those of processes and of mounts reach the kernel, and
// it goes by them.
func TestSELinuxLabelsHold(t *testing.T) {
	enforcePolicy(t)
	for _, tc := range []struct {
		name            string
		noNewPrivileges bool
	}{{"with new privileges", false}, {"without new privileges", true}} {
		t.Run("processes "+tc.name, func(t *testing.T) {
			h := newHost(t)
			s := h.spec("echo secret >/run/file; cat /run/file >/tmp/out 2>&1; echo done >>/tmp/out; while :; do sleep 1; done")
			s.Process.SelinuxLabel, s.Process.NoNewPrivileges, s.Linux.MountLabel = confinedLabel, tc.noNewPrivileges, secretLabel
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs"})
			p := h.mustCreate(s)
			if err := h.Start(t.Context(), h.id()); err != nil {
				t.Fatal(err)
			}
			if got := label(t, p.PID); got != confinedLabel {
				t.Errorf("the host sees %q on the first process", got)
			}
			var out string
			until(t, "the first process to have tried", func() bool {
				b, _ := os.ReadFile(filepath.Join(h.bundle, "rootfs/tmp/out"))
				out = string(b)
				return strings.Contains(out, "done")
			})
			if !strings.Contains(out, "Permission denied") {
				t.Errorf("the first process reads what is secret: %q", out)
			}
			inside := shell("cat /proc/self/attr/current; echo; cat /run/file 2>&1")
			inside.SelinuxLabel = confinedLabel
			got, _, err := h.execute(inside)
			if err != nil || !strings.HasPrefix(got, confinedLabel) || !strings.Contains(got, "Permission denied") {
				t.Errorf("exec: %q, %v", got, err)
			}
			inside.SelinuxLabel = ""
			if got, _, err = h.execute(inside); err != nil || !strings.HasPrefix(got, hostLabel) || !strings.HasSuffix(got, "secret") {
				t.Errorf("exec without a label does not read it, so this proves nothing: %q, %v", got, err)
			}
		})
	}

	t.Run("all mounts that are made have the mount label", func(t *testing.T) {
		h := newHost(t)
		s := h.spec("while :; do sleep 1; done")
		s.Linux.MountLabel = secretLabel
		s.Linux.MaskedPaths = []string{"/mnt"}
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue"},
			specs.Mount{Destination: "/srv", Type: "tmpfs", Source: "tmpfs", Options: []string{"context=u:object_r:host"}})
		p := h.mustCreate(s)
		if err := h.Start(t.Context(), h.id()); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]string{
			"/dev": secretLabel, "/dev/pts": secretLabel, "/dev/mqueue": secretLabel, "/mnt": secretLabel,
			"/srv": "u:object_r:host", "/proc": "u:object_r:host",
		} {
			if got := fileLabel(t, rootOf(p.PID)+path); got != want {
				t.Errorf("%s has %q, want %q", path, got, want)
			}
		}
	})

	t.Run("labels that the policy does not know are refused", func(t *testing.T) {
		h := newHost(t)
		s := h.spec("true")
		s.Process.SelinuxLabel = "u:r:nobody"
		if _, err := h.create(s); err == nil || !strings.Contains(err.Error(), "process.selinuxLabel") || !strings.Contains(err.Error(), "u:r:nobody") {
			t.Errorf("process: %v", err)
		}
		s.Process.SelinuxLabel, s.Linux.MountLabel = "", "u:r:nobody"
		if _, err := h.create(s); err == nil || !strings.Contains(err.Error(), "context=u:r:nobody") {
			t.Errorf("mount: %v", err)
		}
	})

	t.Run("labels are not redirected", func(t *testing.T) {
		h := newHost(t)
		fake, unchanged := fakeAttributes(t)
		s := h.spec("while :; do sleep 1; done")
		s.Process.SelinuxLabel = confinedLabel
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc", Type: "bind", Source: fake, Options: []string{"rbind"}})
		p := h.mustCreate(s)
		if err := h.Start(t.Context(), h.id()); err != nil {
			t.Fatal(err)
		}
		if got := label(t, p.PID); got != confinedLabel {
			t.Errorf("it runs as %q", got)
		}
		unchanged()
	})
}

// rootOf is a process's root as the host reaches it.
func rootOf(pid int) string { return fmt.Sprintf("/proc/%d/root", pid) }

// fileLabel is SELinux's label of a file.
func fileLabel(t *testing.T, path string) string {
	t.Helper()
	b := make([]byte, 256)
	n, err := unix.Getxattr(path, "security.selinux", b)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return ""
	}
	return strings.TrimRight(string(b[:n]), "\x00")
}
