package ociattack

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestCgroupTreeIsReadOnly: the container sees cgroup files and can write to
// none, release_agent among them (CVE-2022-0492, CVE-2023-25809).
func TestCgroupTreeIsReadOnly(t *testing.T) {
	h := newHost(t)
	for _, private := range []bool{true, false} {
		b := h.bundle(`
n=0
for f in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release -o -name cgroup.procs -o -name pids.max -o -name cgroup.subtree_control); do
	n=$((n+1))
	if { echo 1 >$f; } 2>/dev/null; then echo wrote $f; fi
done
for d in /sys/fs/cgroup /sys/fs/cgroup/*; do
	if mkdir $d/attack 2>/dev/null; then echo made $d/attack; fi
done
mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted
echo tried $n`)
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{
			Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"},
		})
		if private {
			b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		}
		r := b.run()
		if r.code != 0 || strings.Contains(r.out, "wrote") || strings.Contains(r.out, "made") || strings.Contains(r.out, "remounted") {
			t.Errorf("cgroup namespace %v: %v", private, r)
		}
		if !strings.Contains(r.out, "tried") || strings.Contains(r.out, "tried 0\n") {
			t.Errorf("cgroup namespace %v: nothing was tried, so this proves nothing: %v", private, r)
		}
	}
}

// TestCgroupPathsStayBelowTheContainers: neither exec --cgroup nor cgroupsPath
// leads to somebody else's group.
func TestCgroupPathsStayBelowTheContainers(t *testing.T) {
	h := newHost(t)
	b := h.bundle("sleep 1000")
	b.spec.Linux.CgroupsPath = "/" + newID()
	id := b.start()
	sibling := h.bundle("sleep 1000")
	sibling.spec.Linux.CgroupsPath = b.spec.Linux.CgroupsPath + "2" // has the other's path as its beginning
	sibling.start()
	for _, group := range []string{"..", "../", "../x", "x/../..", "/..", "/../..", "../../", ".." + sibling.spec.Linux.CgroupsPath, "./.././x", "2"} {
		r := h.do("exec", "--cgroup", group, id, "/bin/cat", "/proc/self/cgroup")
		if r.code == 0 && group != "2" || strings.Contains(r.out, sibling.spec.Linux.CgroupsPath) {
			t.Errorf("exec --cgroup %q: %v", group, r)
		}
	}
	for _, path := range []string{"..", "/..", "/../x", "a/../../b", "/a/../../../b"} {
		b := h.bundle("cat /proc/self/cgroup")
		b.spec.Linux.CgroupsPath = path
		if r := b.run(); r.code == 0 || !strings.Contains(r.err, "linux.cgroupsPath") {
			t.Errorf("cgroupsPath %q: %v", path, r)
		}
	}
	if r := h.do("exec", id, "/bin/cat", "/proc/self/cgroup"); r.code != 0 || !strings.Contains(r.out, b.spec.Linux.CgroupsPath) {
		t.Errorf("the container's own group: %v", r)
	}
}
