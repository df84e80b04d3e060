package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestContainerLimitsBind: the limits that were asked for are in the
// container's cgroup, and update changes all of them.
func TestContainerLimitsBind(t *testing.T) {
	testenv.Require(t, testenv.CgroupV2)
	h := newHostOf(t, ctr)
	id := strings.TrimSpace(h.ok(h.run("-d", "--name", "bound", "--network", "none", "--cpu-weight", "50", "--cpus", "1.5", "--pids-limit", "20", "-m", "64M",
		"debian:bookworm", "sleep", "1000")...))
	dir := "/sys/fs/cgroup/hvctl/container-" + id
	has := func(when string, want map[string]string) {
		t.Helper()
		for file, v := range want {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if got := strings.TrimSpace(string(b)); err != nil || got != v {
				t.Errorf("%s: %s is %q (%v), want %q", when, file, got, err, v)
			}
		}
	}
	has("as asked", map[string]string{"cpu.weight": "50", "cpu.max": "150000 100000", "pids.max": "20", "memory.max": "67108864", "memory.swap.max": "0"})
	h.ok("update", "--cpus", "0.5", "--cpu-weight", "10", "--pids-limit", "30", "-m", "128M", "bound")
	has("updated", map[string]string{"cpu.weight": "10", "cpu.max": "50000 100000", "pids.max": "30", "memory.max": "134217728", "memory.swap.max": "0"})
	h.ok("rm", "-f", "bound")
	if _, err := os.Stat(dir); err == nil {
		t.Error("the cgroup outlived its container")
	}
}

// TestContainerIsConfined: what a container sees and may do of the host.
func TestContainerIsConfined(t *testing.T) {
	h := newHostOf(t, ctr)
	for _, c := range []struct{ name, script, want string }{
		{"a system call filter", "grep Seccomp: /proc/self/status | cut -f2", "2"},
		{"the default capabilities", "grep CapEff /proc/self/status | cut -f2", "00000000a80425fb"},
		{"no capability to inherit", "grep CapInh /proc/self/status | cut -f2", "0000000000000000"},
		{"its own processes alone", "ls /proc | grep -c '[0-9][0-9][0-9]'; true", "0"}, // none that was started long ago
		{"masked files", "cat /proc/kcore /proc/timer_list 2>/dev/null | wc -c", "0"},
		{"masked directories", "ls -A /sys/firmware | wc -l", "0"},
		{"kernel parameters that stay", "echo 1 2>/dev/null >/proc/sys/kernel/panic && echo changed || echo refused", "refused"},
		{"mounts that stay", "mount -t tmpfs none /mnt 2>/dev/null && echo mounted || echo refused", "refused"},
		{"no new namespaces", "unshare -m true 2>/dev/null && echo made || echo refused", "refused"},
		{"cgroups that stay", "mkdir /sys/fs/cgroup/x 2>/dev/null && echo made || echo refused", "refused"},
		{"three descriptors", "ls /proc/self/fd | wc -l", "4"}, // and the directory's
		{"a terminal of nobody", "test -e /dev/tty0 || test -e /dev/kmsg && echo devices || echo none", "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := h.in(t)
			if out := h.ok(h.run("--rm", "--network", "none", "debian:bookworm", "sh", "-c", c.script)...); strings.TrimSpace(out) != c.want {
				t.Errorf("printed %q, want %q", out, c.want)
			}
		})
	}
}

// TestContainerUnfiltered: without the default filter what capabilities allow is
// allowed.
func TestContainerUnfiltered(t *testing.T) {
	h := newHostOf(t, ctr)
	out := h.ok(h.run("--rm", "--network", "none", "--security-opt", "seccomp=unconfined", "--cap-add", "SYS_ADMIN", "debian:bookworm",
		"sh", "-c", "grep Seccomp: /proc/self/status | cut -f2; mount -t tmpfs none /mnt && echo mounted")...)
	if out != "0\nmounted\n" {
		t.Errorf("printed %q", out)
	}
}

// TestContainerVolumes: directories of the host, writable and not.
func TestContainerVolumes(t *testing.T) {
	h := newHostOf(t, ctr)
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f", []byte("host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := h.ok(h.run("--rm", "--network", "none", "-v", dir+":/rw", "-v", dir+":/ro:ro", "debian:bookworm", "sh", "-c",
		"cat /ro/f; echo mine >/rw/g; echo no 2>/dev/null >/ro/h || echo refused")...)
	if out != "host\nrefused\n" {
		t.Errorf("printed %q", out)
	}
	if b, err := os.ReadFile(dir + "/g"); err != nil || string(b) != "mine\n" {
		t.Errorf("the container wrote %q (%v)", b, err)
	}
	r := h.hvctl(h.run("--rm", "--network", "none", "-v", dir+"/none:/x", "debian:bookworm", "true")...)
	if r.code != 125 || !strings.Contains(r.err, dir+"/none") || strings.Count(r.err, "\n") != 1 {
		t.Errorf("a volume of nothing: exit %d, %q", r.code, r.err)
	}
}

// TestContainerOutOfMemory: a workload that takes more memory than it may is
// killed, and said to be.
func TestContainerOutOfMemory(t *testing.T) {
	h := newHostOf(t, ctr)
	r := h.hvctl(h.run("--name", "glutton", "--network", "none", "-m", "128M", "python", "python3", "-c", "x = []\nwhile True: x.append(bytearray(1 << 20))")...)
	if r.code != 137 || !strings.Contains(r.err, "lack of memory") {
		t.Errorf("exit %d, %q", r.code, r.err)
	}
	if out := h.ok("events", "--json", "--no-follow", "glutton"); !strings.Contains(out, `"oom"`) {
		t.Errorf("events %s", out)
	}
	h.ok("rm", "glutton")
}

// TestContainerForkBombIsBounded: --pids-limit holds, and the container can
// still be killed.
func TestContainerForkBombIsBounded(t *testing.T) {
	h := newHostOf(t, ctr)
	h.ok(h.run("-d", "--name", "bomb", "--network", "none", "--pids-limit", "30", "debian:bookworm", "sh", "-c", "b() { b | b & }; b 2>/dev/null; while :; do :; done")...)
	defer h.ok("rm", "-f", "bomb")
	time.Sleep(300 * time.Millisecond) // it has time to try
	h.ok("kill", "bomb")
	if r := h.hvctl("wait", "bomb"); strings.TrimSpace(r.out) != "137" {
		t.Errorf("wait printed %q, %q", r.out, r.err)
	}
}

// TestContainerOnTheHostsNetwork sees the host's interfaces and names.
func TestContainerOnTheHostsNetwork(t *testing.T) {
	h := newHostOf(t, ctr)
	ifs, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	out := h.ok(h.run("--rm", "--network", "host", "--add-host", "other.test:10.9.9.9", "debian:bookworm", "sh", "-c", "tail -n +3 /proc/net/dev | wc -l; grep -c other.test /etc/hosts")...)
	if out != fmt.Sprintf("%d\n1\n", len(ifs)) {
		t.Errorf("printed %q, the host has %d interfaces", out, len(ifs))
	}
}

// owners are the processes that own containers below the host's root.
func (h *host) owners() (pids []int) {
	h.t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, d := range dirs {
		b, err := os.ReadFile(d + "/cmdline")
		if err != nil || !bytes.Contains(b, []byte("hvctl-ctr\x00"+h.root+"/")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(d)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestContainerOwnerKilledAtAnyTime: whenever an owner is killed while it makes
// a container, `rm -f` leaves nothing; the host compares at the end.
func TestContainerOwnerKilledAtAnyTime(t *testing.T) {
	h := newHostOf(t, ctr)
	const kills = 12
	run := h.run("-d", "--name", "phoenix", "-p", "127.0.0.1::80", "debian:bookworm", "sleep", "1000")
	began := time.Now()
	h.ok(run...)
	whole := time.Since(began)
	h.ok("rm", "-f", "phoenix")
	for i := range time.Duration(kills) {
		c := h.command(t.Context(), run...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		var pids []int
		for deadline := time.Now().Add(time.Minute); len(pids) == 0 && time.Now().Before(deadline); {
			pids = h.owners()
		}
		time.Sleep(whole * i / kills) // the point of the test: moments all over the start
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have failed by itself
		}
		_ = c.Wait() // either way
		h.ok("rm", "-f", "phoenix")
	}
}
