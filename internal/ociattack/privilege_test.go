package ociattack

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// field returns what /proc/PID/status says of a name.
func field(status, name string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return "missing"
}

// TestNoCapabilityIsInherited: the inheritable and ambient sets are empty
// unless the configuration fills them, in exec too (CVE-2022-24769,
// CVE-2022-29162).
func TestNoCapabilityIsInherited(t *testing.T) {
	h := newHost(t)
	const none = "0000000000000000"
	r := h.bundle("cat /proc/self/status").run()
	if r.code != 0 || field(r.out, "CapInh") != none || field(r.out, "CapAmb") != none || field(r.out, "CapEff") == none {
		t.Errorf("run: %v", r)
	}
	id := h.bundle("sleep 1000").start()
	r = h.do("exec", "--cap", "CAP_NET_RAW", id, "/bin/cat", "/proc/self/status")
	if r.code != 0 || field(r.out, "CapInh") != none || field(r.out, "CapAmb") != none || field(r.out, "CapEff") == none {
		t.Errorf("exec: %v", r)
	}

	b := h.bundle("cat /proc/self/status")
	b.spec.Process.Capabilities.Inheritable = []string{"CAP_KILL"}
	if r := b.run(); field(r.out, "CapInh") != "0000000000000020" {
		t.Errorf("asked for, so this proves nothing: %v", r)
	}
}

// TestSupplementaryGroupsOfTheCallerAreDropped: whoever starts the runtime
// does not lend the container his groups.
func TestSupplementaryGroupsOfTheCallerAreDropped(t *testing.T) {
	h := newHost(t)
	lend := func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{1234, 5678}}}
	}
	groups := func(b *bundle) string { return field(b.runWith(lend).out, "Groups") }
	if got := groups(h.bundle("cat /proc/self/status")); strings.Contains(got, "1234") || got == "missing" {
		t.Errorf("groups %q", got)
	}
	b := h.bundle("cat /proc/self/status")
	b.spec.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{7}}
	if got := groups(b); got != "7" && got != "7 1000" {
		t.Errorf("groups of a user %q, want those of the configuration", got)
	}
	b = h.bundle("cat /proc/self/status")
	b.withUserNamespace()
	if got := groups(b); strings.Contains(got, "1234") || got == "missing" {
		t.Errorf("groups in a user namespace %q", got)
	}
	id := h.bundle("sleep 1000").start()
	r := h.doWith(lend, "exec", id, "/bin/cat", "/proc/self/status")
	if got := field(r.out, "Groups"); strings.Contains(got, "1234") || got == "missing" {
		t.Errorf("groups in exec %q", got)
	}

	c := exec.Command("cat", "/proc/self/status")
	lend(c)
	if out, err := c.Output(); err != nil || field(string(out), "Groups") != "1234 5678" {
		t.Errorf("none are lent, so this proves nothing: %v %s", err, out)
	}
}

// TestVolumeKeepsItsOwner: a user namespace changes the owner of nothing that
// the runtime did not make.
func TestVolumeKeepsItsOwner(t *testing.T) {
	h := newHost(t)
	victim, changed := h.victim()
	b := h.bundle("cat /proc/self/uid_map; echo >/mnt/file; rm /mnt/file; echo >/mnt/new; id")
	b.withUserNamespace()
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: victim, Options: []string{"rbind"}})
	r := b.run()
	if r.code != 0 || !strings.Contains(r.out, "200000") || !strings.Contains(r.out, "uid=0") {
		t.Errorf("%v", r)
	}
	if diff := changed(); diff != "" {
		t.Errorf("the victim changed; %s", diff)
	}
}

// TestBadUsersAreRefused: a user that is none is an error, never user 0
// (CVE-2026-30892).
func TestBadUsersAreRefused(t *testing.T) {
	h := newHost(t)
	b := h.bundle("sleep 1000")
	b.write("etc/passwd", strings.Repeat("many:x:5:5::/:/bin/sh\n", 20000)+"evil:x:4294967296:0::/:/bin/sh\nneg:x:-1:-1::/:/bin/sh\nempty:x:::/:/bin/sh\n")
	id := b.start()
	for _, user := range []string{
		"4294967295", "4294967296", "18446744073709551616", "-1", "-0", "+0", "0x0", "00x", "1e3", " 0", "0 ", "\t0", "0\n", "root ", "nosuch", "evil", "neg", "empty",
		":", ":0", "0:", "0:4294967296", "0:-1", "0:nosuch", "1000:1000:0", "root:99999999999", "/", "..", "\xff", "٠", strings.Repeat("1", 4000),
	} {
		r := h.do("exec", "--user", user, id, "/bin/id")
		if r.code == 0 || r.out != "" {
			t.Errorf("user %q: %v", user, r)
		}
	}
	if r := h.do("exec", "--user", "1000:1000", id, "/bin/id"); r.code != 0 || !strings.HasPrefix(r.out, "uid=1000 gid=1000") {
		t.Errorf("a good user: %v", r)
	}
}
