package ociattack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fakeProc makes a folder that looks like a proc file system to who does not
// ask the kernel, and returns it with what tells whether it was written to.
func fakeProc(h *host) (dir string, written func() string) {
	h.t.Helper()
	dir = filepath.Join(h.dir, "fakeproc"+newID())
	for _, file := range []string{"sys/net/ipv4/ip_forward", "sys/kernel/shm_rmid_forced", "self/attr/exec", "self/attr/current", "self/attr/apparmor/exec", "thread-self/attr/exec", "self/oom_score_adj", "self/uid_map", "self/setgroups"} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("fake\n"), 0o666); err != nil {
			h.t.Fatal(err)
		}
	}
	before := tree(h.t, dir)
	return dir, func() string {
		if after := tree(h.t, dir); after != before {
			return after
		}
		return ""
	}
}

// TestSysctlsAreNotRedirected: what the runtime writes to proc lands in the
// kernel or is an error, whatever the configuration puts over /proc
// (CVE-2019-16884, CVE-2025-52881).
func TestSysctlsAreNotRedirected(t *testing.T) {
	h := newHost(t)
	const script = `mount -t proc proc /mnt 2>/dev/null; cat /mnt/sys/net/ipv4/ip_forward`
	for _, tc := range []struct {
		name   string
		mounts func(b *bundle, fake string)
	}{
		{"a folder over /proc", func(b *bundle, fake string) {
			b.without("/proc")
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/proc", Type: "bind", Source: fake, Options: []string{"rbind"}})
		}},
		{"a folder over a mounted /proc", func(b *bundle, fake string) {
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/proc", Type: "bind", Source: fake, Options: []string{"rbind"}})
		}},
		{"tmpfs over /proc", func(b *bundle, _ string) {
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/proc", Type: "tmpfs", Source: "tmpfs"})
		}},
		{"a folder over /proc/sys", func(b *bundle, fake string) {
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/proc/sys", Type: "bind", Source: fake + "/sys", Options: []string{"bind"}})
		}},
		{"a file over the setting", func(b *bundle, fake string) {
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/proc/sys/net/ipv4/ip_forward", Type: "bind", Source: fake + "/sys/net/ipv4/ip_forward", Options: []string{"bind"}})
		}},
		{"/proc in the image only", func(b *bundle, fake string) {
			b.without("/proc")
			b.symlink(fake, "proc")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := h.in(t)
			fake, written := fakeProc(h)
			b := h.bundle(script)
			for _, set := range []*[]string{&b.spec.Process.Capabilities.Bounding, &b.spec.Process.Capabilities.Effective, &b.spec.Process.Capabilities.Permitted} {
				*set = append(*set, "CAP_SYS_ADMIN") // to mount a proc of its own and look
			}
			b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths = nil, nil
			b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
			tc.mounts(b, fake)
			r := b.run()
			if diff := written(); diff != "" {
				t.Errorf("the fake was written to:\n%s", diff)
			}
			if got := strings.TrimSpace(r.out); r.code == 0 && got != "1" {
				t.Errorf("the container ran and the setting is %q: %v", got, r)
			}
			t.Logf("exit %d, %s", r.code, strings.TrimSpace(r.err))
		})
	}

	// A plain write by name falls for it.
	fake, written := fakeProc(h)
	if err := os.WriteFile(filepath.Join(fake, "sys/net/ipv4/ip_forward"), []byte("1"), 0o644); err != nil || written() == "" {
		t.Errorf("a write goes unnoticed, so this proves nothing: %v", err)
	}
}

// TestLabelsAreNotRedirected: the same for the profile of a security module,
// in create and in exec. Without such a module the container must not run as if
// it had one.
func TestLabelsAreNotRedirected(t *testing.T) {
	h := newHost(t)
	fake, written := fakeProc(h)
	b := h.bundle("echo ran")
	b.spec.Process.ApparmorProfile = "confined"
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/proc", Type: "bind", Source: fake, Options: []string{"rbind"}})
	if r := b.run(); r.code == 0 || strings.Contains(r.out, "ran") {
		t.Errorf("%v", r)
	}
	if diff := written(); diff != "" {
		t.Errorf("the fake was written to:\n%s", diff)
	}

	// The container puts the fake there itself, before somebody joins it.
	b = h.bundle("mount --bind /fake /proc && echo ready >/tmp/ready && sleep 1000")
	for _, set := range []*[]string{&b.spec.Process.Capabilities.Bounding, &b.spec.Process.Capabilities.Effective, &b.spec.Process.Capabilities.Permitted} {
		*set = append(*set, "CAP_SYS_ADMIN")
	}
	if err := os.Mkdir(filepath.Join(b.rootfs, "fake"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/fake", Type: "bind", Source: fake, Options: []string{"rbind"}})
	id := b.start()
	eventually(t, "the container has laid its fake", func() bool { _, err := os.Stat(filepath.Join(b.rootfs, "tmp/ready")); return err == nil })
	for _, flags := range [][]string{{"--apparmor", "confined"}, {"--process-label", "system_u:system_r:confined"}, nil} {
		r := h.do(append(append([]string{"exec"}, flags...), id, "/bin/cat", "/proc/self/attr/exec")...)
		if flags != nil && r.code == 0 {
			t.Errorf("exec with %v runs without the label: %v", flags, r)
		} else if flags == nil && strings.TrimSpace(r.out) != "fake" {
			t.Errorf("the fake is not in place, so this proves nothing: %v", r)
		}
	}
	if diff := written(); diff != "" {
		t.Errorf("the fake was written to:\n%s", diff)
	}
}
