package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// forbidden is a file in the root that the profiles forbid.
const forbidden = "/etc/forbidden"

// newForbidding is a host whose root has the forbidden file.
func newForbidding(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	if err := os.WriteFile(filepath.Join(h.bundle, "rootfs", forbidden), []byte("secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return h
}

// TestAppArmorProfileHolds for the first process and for those that join it, as
// the host sees them, and in what they may do.
func TestAppArmorProfileHolds(t *testing.T) {
	const profile = "hvctl-test-holds"
	testenv.Require(t, testenv.Root, testenv.AppArmor)
	testenv.LoadAppArmorProfile(t, profile, forbidden)
	for _, tc := range []struct {
		name            string
		noNewPrivileges bool
	}{{"with new privileges", false}, {"without new privileges", true}} {
		t.Run(tc.name, func(t *testing.T) {
			h := newForbidding(t)
			s := h.spec("cat " + forbidden + " 2>/tmp/out; echo done >>/tmp/out; while :; do sleep 1; done")
			s.Process.ApparmorProfile, s.Process.NoNewPrivileges = profile, tc.noNewPrivileges
			p := h.mustCreate(s)
			if err := h.Start(t.Context(), h.id()); err != nil {
				t.Fatal(err)
			}
			if got := label(t, p.PID); got != profile+" (enforce)" {
				t.Errorf("the host sees %q on the first process", got)
			}
			var out string
			until(t, "the first process to have tried", func() bool {
				b, _ := os.ReadFile(filepath.Join(h.bundle, "rootfs/tmp/out"))
				out = string(b)
				return strings.Contains(out, "done")
			})
			if !strings.Contains(out, "Permission denied") {
				t.Errorf("the first process reads what is forbidden: %q", out)
			}
			inside := shell("cat /proc/self/attr/current; cat " + forbidden + " 2>&1")
			inside.ApparmorProfile = profile
			out, _, err := h.execute(inside)
			if err != nil || !strings.HasPrefix(out, profile+" (enforce)\n") || !strings.Contains(out, "Permission denied") {
				t.Errorf("exec: %q, %v", out, err)
			}
			inside.ApparmorProfile = ""
			if out, _, err = h.execute(inside); err != nil || !strings.HasSuffix(out, "secret") {
				t.Errorf("exec without a profile does not read it, so this proves nothing: %q, %v", out, err)
			}
		})
	}
}

// TestAppArmorProfileThatIsNotLoadedIsRefused, before anything runs.
func TestAppArmorProfileThatIsNotLoadedIsRefused(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.AppArmor)
	h := newHost(t)
	s := h.spec("echo ran >/tmp/ran")
	s.Process.ApparmorProfile = "nobody-loaded-this"
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "nobody-loaded-this") || !strings.Contains(err.Error(), "apparmor_parser") {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(filepath.Join(h.bundle, "rootfs/tmp/ran")); err == nil {
			t.Errorf("%s: it ran all the same", what)
		}
	}
	_, err := h.create(s)
	refused("create", err)
	if _, err := h.State(h.id()); err == nil {
		t.Error("there is something left")
	}
	s.Process.ApparmorProfile = ""
	s.Process.Args[2] = "sleep 100"
	h.mustCreate(s)
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	p := shell("echo ran >/tmp/ran")
	p.ApparmorProfile = "nobody-loaded-this"
	_, _, err = h.execute(p)
	refused("exec", err)
}

// fakeAttributes is a folder that looks like a process's in /proc, and what
// tells whether somebody wrote a label there.
func fakeAttributes(t *testing.T) (dir string, unchanged func()) {
	t.Helper()
	dir = filepath.Join(testDir(t), "fake")
	var files []string
	for _, p := range []string{"self", "thread-self"} {
		for _, f := range []string{"exec", "current", "apparmor/exec", "apparmor/current"} {
			files = append(files, filepath.Join(dir, p, "attr", f))
		}
	}
	for _, f := range files {
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte("fake\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir, func() {
		for _, f := range files {
			if b, err := os.ReadFile(f); err != nil || string(b) != "fake\n" {
				t.Errorf("%s has %q, %v", f, b, err)
			}
		}
	}
}

// TestAppArmorLabelIsNotRedirectedByTheConfiguration: whatever is mounted on
// /proc, a process that runs has the label.
func TestAppArmorLabelIsNotRedirectedByTheConfiguration(t *testing.T) {
	const profile = "hvctl-test-redirected"
	testenv.Require(t, testenv.Root, testenv.AppArmor)
	testenv.LoadAppArmorProfile(t, profile, forbidden)
	bind := func(source, dest string) specs.Mount {
		return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: []string{"rbind"}}
	}
	for _, tc := range []struct {
		name   string
		change func(s *specs.Spec, fake string)
	}{
		{"no proc", func(s *specs.Spec, _ string) { s.Mounts = s.Mounts[1:] }},
		{"tmpfs for proc", func(s *specs.Spec, _ string) { s.Mounts[0].Type = "tmpfs" }},
		{"a folder for proc", func(s *specs.Spec, fake string) { s.Mounts[0] = bind(fake, "/proc") }},
		{"a folder over proc", func(s *specs.Spec, fake string) { s.Mounts = append(s.Mounts, bind(fake, "/proc")) }},
		{"a folder over attr", func(s *specs.Spec, fake string) {
			s.Mounts = append(s.Mounts, bind(fake+"/self/attr", "/proc/self/attr"))
		}},
		{"a file over exec of apparmor", func(s *specs.Spec, fake string) {
			s.Mounts = append(s.Mounts, bind(fake+"/self/attr/exec", "/proc/thread-self/attr/apparmor/exec"))
		}},
		{"a file over exec", func(s *specs.Spec, fake string) {
			s.Mounts = append(s.Mounts, bind(fake+"/self/attr/exec", "/proc/self/attr/exec"))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newForbidding(t)
			fake, unchanged := fakeAttributes(t)
			s := h.spec("cat " + forbidden + " && exec sleep 1000; exec sleep 2000")
			s.Process.ApparmorProfile = profile
			tc.change(s, fake)
			p, err := h.create(s)
			if err == nil {
				err = h.Start(t.Context(), h.id())
			}
			if err != nil {
				t.Fatal(err)
			}
			unchanged()
			if got := label(t, p.PID); got != profile+" (enforce)" {
				t.Errorf("it runs as %q", got)
			}
		})
	}
}

// TestAppArmorLabelIsNotRedirectedFromInside: what the container has laid over
// its /proc takes no label that is meant for the kernel.
func TestAppArmorLabelIsNotRedirectedFromInside(t *testing.T) {
	const profile = "hvctl-test-fake"
	testenv.Require(t, testenv.Root, testenv.AppArmor)
	testenv.LoadAppArmorProfile(t, profile, forbidden)
	h := newHost(t)
	fake, unchanged := fakeAttributes(t)
	s := h.spec("mount --bind /mnt /proc && echo >/tmp/ready; while :; do sleep 1; done")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: fake, Options: []string{"rbind"}})
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_SYS_ADMIN"}, Effective: []string{"CAP_SYS_ADMIN"}, Permitted: []string{"CAP_SYS_ADMIN"}}
	h.mustCreate(s)
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	until(t, "the fake to be in place", func() bool {
		_, err := os.Stat(filepath.Join(h.bundle, "rootfs/tmp/ready"))
		return err == nil
	})
	inside := shell("while :; do sleep 1; done")
	inside.ApparmorProfile = profile
	p, err := h.Exec(t.Context(), h.id(), container.ExecOptions{Process: inside})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Kill(p.PID, unix.SIGKILL)
		wait(t, p)
		p.FD.Close()
	}()
	if got := label(t, p.PID); got != profile+" (enforce)" {
		t.Errorf("the host sees %q", got)
	}
	unchanged()
}

// label is what the kernel has a process confined by.
func label(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(string(b), "\x00\n")
}
