package ociattack

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
)

// limited makes a bundle in a cgroup of its own, on a machine with cgroup v2.
func (h *host) limited(script string, res *specs.LinuxResources) (b *bundle, group string) {
	h.t.Helper()
	b = h.bundle(script)
	b.spec.Linux.CgroupsPath = "/" + newID()
	b.spec.Linux.Resources = res
	return b, filepath.Join("/sys/fs/cgroup", b.spec.Linux.CgroupsPath)
}

func newLimitedHost(t *testing.T) *host {
	t.Helper()
	testenv.Require(t, testenv.CgroupV2)
	return newHost(t)
}

// event is a counter of a group's events file.
func event(t *testing.T, file, name string) int {
	t.Helper()
	for line := range strings.Lines(readFile(t, file) + "\n") {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s has no %s", file, name)
	return 0
}

// TestForkBombStaysInItsLimit: a container that forks without end gets its
// number of processes and no more, and can be removed.
func TestForkBombStaysInItsLimit(t *testing.T) {
	h := newLimitedHost(t)
	limit := int64(30)
	b, group := h.limited("bomb() { bomb | bomb & }; bomb; while :; do sleep 1 & done", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}})
	id := b.start()
	eventually(t, "the bomb meets its limit", func() bool { return event(t, filepath.Join(group, "pids.events"), "max") > 0 })
	if n, err := strconv.Atoi(readFile(t, filepath.Join(group, "pids.current"))); err != nil || n > int(limit) {
		t.Errorf("%d processes, %v; want at most %d", n, err, limit)
	}
	// The host still forks, and the bomb can be disarmed.
	h.ok("delete", "--force", id)
	if _, err := os.Stat(group); err == nil {
		t.Error("its cgroup is still there")
	}
}

// TestMemoryBombIsKilled: a container that takes memory without end is killed
// at its limit, swap included.
func TestMemoryBombIsKilled(t *testing.T) {
	h := newLimitedHost(t)
	limit := int64(32 << 20)
	b, group := h.limited("", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}})
	// tail keeps what it cannot yet tell to be the end: all of a line.
	b.spec.Process.Args = []string{"/bin/tail", "-c", "1000000000", "/dev/zero"}
	b.save()
	id := newID()
	h.ok("create", "--bundle", b.dir, id)
	pidfd, err := unix.PidfdOpen(h.pid(id), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	h.ok("start", id)
	eventually(t, "it is killed", func() bool { return event(t, filepath.Join(group, "memory.events"), "oom_kill") > 0 })
	if peak, err := strconv.Atoi(readFile(t, filepath.Join(group, "memory.max"))); err != nil || peak != int(limit) {
		t.Errorf("memory.max is %d, %v", peak, err)
	}
	eventually(t, "it is stopped", func() bool { return strings.Contains(h.ok("state", id), `"stopped"`) })
	h.ok("delete", id)
}

// TestTmpfsFillIsBound: what a container writes to its tmpfs counts as its
// memory and is bound by the mount's size.
func TestTmpfsFillIsBound(t *testing.T) {
	h := newLimitedHost(t)
	b := h.bundle("dd if=/dev/zero of=/dev/shm/x bs=1024 count=200000; stat -c size=%s /dev/shm/x; dd if=/dev/zero of=/dev/x bs=1024 count=200000")
	for i := range b.spec.Mounts {
		if b.spec.Mounts[i].Type == "tmpfs" {
			b.spec.Mounts[i].Options = append(b.spec.Mounts[i].Options, "size=1m")
		}
	}
	r := b.run()
	if strings.Count(r.err, "No space left") != 2 || !strings.Contains(r.out, "size=1048576") {
		t.Errorf("bound by its size: %v", r)
	}

	limit := int64(16 << 20)
	b, group := h.limited("", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}})
	b.spec.Process.Args = []string{"/bin/dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1024", "count=60000"}
	id := b.start()
	eventually(t, "it is killed", func() bool { return event(t, filepath.Join(group, "memory.events"), "oom_kill") > 0 })
	h.ok("delete", "--force", id)
}

// TestDescriptorExhaustionStaysInside: a container that opens files without
// end meets its limit, which is the one of the configuration, while the host
// goes on opening files.
func TestDescriptorExhaustionStaysInside(t *testing.T) {
	h := newLimitedHost(t)
	b := h.bundle(`n=3; while eval "exec $n</bin/busybox"; do n=$((n+1)); done`)
	b.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 9, Hard: 9}}
	r := b.run()
	if r.code == 0 || !strings.Contains(r.err, "Too many open files") && !strings.Contains(r.err, "can't") && !strings.Contains(r.err, "Bad file descriptor") {
		t.Errorf("%v", r)
	}
	b = h.bundle("ulimit -Sn; ulimit -Hn; ulimit -n 100 && echo raised")
	b.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 9, Hard: 9}}
	if r := b.run(); !strings.HasPrefix(r.out, "9\n9\n") || strings.Contains(r.out, "raised") {
		t.Errorf("%v", r)
	}
}

// TestLimitsAreWhatTheConfigurationSays: each of these lands in the group's
// files; a limit that is passed over binds nobody.
func TestLimitsAreWhatTheConfigurationSays(t *testing.T) {
	h := newLimitedHost(t)
	mem, pids, quota, period, shares := int64(64<<20), int64(20), int64(20000), uint64(100000), uint64(2048)
	b, group := h.limited("sleep 1000", &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &mem, Swap: &mem, Reservation: &mem},
		Pids:   &specs.LinuxPids{Limit: &pids},
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares, Cpus: "0"},
	})
	id := b.start()
	for file, want := range map[string]string{
		"memory.max": fmt.Sprint(mem), "memory.swap.max": "0", "memory.low": fmt.Sprint(mem), "pids.max": "20", "cpu.max": "20000 100000", "cpuset.cpus": "0",
	} {
		if got := readFile(t, filepath.Join(group, file)); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	h.ok("delete", "--force", id)
	if _, err := os.Stat(group); err == nil {
		t.Error("the cgroup is still there")
	}
}

// TestDevicesAreNotForTheContainer: a device that the configuration does not
// allow cannot be opened, even by who may make its node.
func TestDevicesAreNotForTheContainer(t *testing.T) {
	h := newLimitedHost(t)
	b, _ := h.limited("", &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}})
	b.spec.Process.Args = []string{"/bin/sh", "-c", `cat /mem >/dev/null; { : >/dev/null; } && echo null is fine; cat /dev/zero | head -c 1 | wc -c`}
	if err := unix.Mknod(filepath.Join(b.rootfs, "mem"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))); err != nil { // /dev/kmsg
		t.Fatal(err)
	}
	r := b.run()
	if !strings.Contains(r.err, "/mem") || !strings.Contains(r.err, "Operation not permitted") || !strings.Contains(r.out, "null is fine") {
		t.Errorf("%v", r)
	}
}
