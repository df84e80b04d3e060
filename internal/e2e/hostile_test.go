package e2e

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// vmmOwnMiB is the bound of what the VMM may hold beyond guest RAM, whatever
// the guest does. It is far above what it needs: a leak is what it catches.
const vmmOwnMiB = 64

// owner is the process ID of the VMM.
func (h *host) owner(name string) (pid int) {
	h.t.Helper()
	if _, err := fmt.Sscan(h.ok("inspect", "--format", "{{.State.PID}}", name), &pid); err != nil || pid < 2 {
		h.t.Fatal(pid, err)
	}
	return pid
}

// ownMemory is the VMM's anonymous memory in MiB, which guest RAM is not.
func (h *host) ownMemory(name string) int {
	h.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.owner(name)))
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kib int
		if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kib); err == nil {
			return kib >> 10
		}
	}
	h.t.Fatalf("no RssAnon in %s", b)
	return 0
}

// TestOutOfMemoryInTheGuest: the process dies of it, and inspect says so.
func TestOutOfMemoryInTheGuest(t *testing.T) {
	h := newHost(t)
	r := h.hvctl("run", "--name", "hungry", "--network", "none", "--kernel", fast, "-m", "128M", "python", "python3", "-c",
		"b = []\nwhile True: b.append(bytearray(b'x') * (1 << 20))")
	if r.code != 137 {
		t.Errorf("exit %d, %q, %q; want 137", r.code, r.out, r.err)
	}
	if out := h.ok("inspect", "--format", "{{.State.Exit.Code}} {{.State.Exit.OOM}}", "hungry"); out != "137 true\n" {
		t.Errorf("inspect says %q", out)
	}
	h.ok("rm", "hungry")
}

// TestFloodOfOutput: output that nobody reads holds the workload up, and is not
// held by the VMM; none is lost.
func TestFloodOfOutput(t *testing.T) {
	h := newHost(t)
	const flood = 50 << 20
	c := h.command(t.Context(), "run", "--rm", "--no-log", "--network", "none", "--kernel", fast, "--name", "flood",
		"debian:bookworm", "sh", "-c", fmt.Sprintf("head -c %d /dev/zero; echo done >&2", flood))
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	n, err := io.CopyN(io.Discard, out, 1<<20) // then it finds nobody reading
	if err != nil {
		t.Fatal(err)
	}
	if mib := h.ownMemory("flood"); mib > vmmOwnMiB {
		t.Errorf("the VMM holds %d MiB of output that nobody reads", mib)
	}
	m, err := io.Copy(io.Discard, out)
	if werr := c.Wait(); n+m != flood || err != nil || werr != nil {
		t.Errorf("%d bytes came out of %d (%v, %v)", n+m, flood, err, werr)
	}
}

// TestProcessLimitAndFullDisk: a workload that forks without end and fills its
// root file system harms itself only.
func TestProcessLimitAndFullDisk(t *testing.T) {
	h := newHost(t)
	// The inner shell ends when it cannot fork; what it forked stays.
	h.ok("run", "-d", "--name", "bomb", "--network", "none", "--kernel", fast, "-m", "128M", "--pids-limit", "30", "debian:bookworm", "sh", "-c",
		`cat /sys/fs/cgroup/pids.max; dd if=/dev/zero of=/fill bs=1M 2>/dev/null; rm /fill; echo filled
(while :; do sleep 1000 & done) 2>/dev/null; echo refused; exec sleep 1000`)
	eventually(t, "forks are refused", func() bool { return strings.Contains(h.ok("logs", "bomb"), "refused") })
	if out := h.ok("logs", "bomb"); out != "30\nfilled\nrefused\n" {
		t.Errorf("log %q", out)
	}
	if out := h.ok("exec", "bomb", "echo", "room"); out != "room\n" {
		t.Errorf("exec beside it printed %q", out)
	}
	if mib := h.ownMemory("bomb"); mib > vmmOwnMiB {
		t.Errorf("the VMM holds %d MiB", mib)
	}
	h.ok("rm", "-f", "bomb")
}

// bombBound is how long the command line may take to end a guest that answers
// nothing; the test host is slow, and what is caught here is an endless wait.
const bombBound = 90 * time.Second

// TestEndlessForkBomb: a workload that forks without end and without a limit
// takes its guest down and nothing else. The VMM stays as it is, and stop and
// rm -f end the VM although nobody in it answers any more.
func TestEndlessForkBomb(t *testing.T) {
	h := newHost(t)
	for _, end := range [][]string{{"stop", "-t", "5", "bomb"}, {"rm", "-f", "bomb"}} {
		t.Run(end[0], func(t *testing.T) {
			h := h.in(t)
			h.ok("run", "-d", "--name", "bomb", "--network", "none", "--kernel", fast, "-m", "256M", "debian:bookworm", "bash", "-c",
				`echo lit; bomb() { bomb | bomb & }; bomb; exec sleep 100000`)
			eventually(t, "the bomb is lit", func() bool { return strings.Contains(h.ok("logs", "bomb"), "lit") })
			pid := h.owner("bomb")
			// The guest is busy with itself once it has run for some seconds of
			// its own time, however slow the host is.
			began := cpuTime(t, pid)
			eventually(t, "the bomb has gone off", func() bool { return cpuTime(t, pid)-began > 8*time.Second })
			if mib := h.ownMemory("bomb"); mib > vmmOwnMiB {
				t.Errorf("the VMM holds %d MiB", mib)
			}
			start := time.Now()
			if r := h.hvctl(end...); r.code != 0 {
				t.Errorf("%v: exit %d, %q", end, r.code, r.err)
			}
			took := time.Since(start)
			t.Logf("%v took %v", end, took)
			if took > bombBound {
				t.Errorf("%v took %v", end, took)
			}
			h.hvctl("rm", "-f", "bomb")
		})
	}
}

// cpuTime is how long process pid has run, guest time included.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// The name, in parentheses, may have spaces in it.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var utime, stime int64
	if _, err := fmt.Sscan(f[11]+" "+f[12], &utime, &stime); err != nil {
		t.Fatal(err)
	}
	return time.Duration(utime+stime) * time.Second / 100 // USER_HZ
}

// TestNobodyInTheGuestPosesAsItsAgent: a process without privileges dials the
// host as the agent does, says hello, and claims that the workload has ended
// well. How it really ends is what counts.
func TestNobodyInTheGuestPosesAsItsAgent(t *testing.T) {
	h := newHost(t)
	r := h.hvctl("run", "--rm", "--network", "none", "--kernel", fast, "-u", "65534:65534", "python", "python3", "-u", "-c", `
import json, socket, struct
s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
s.connect((2, 1024))
print("connected")
try:
    for m, p in (("hello", {"version": 1, "kernel": "evil", "boot_ns": 1}), ("exit", {"id": "main", "code": 0})):
        b = json.dumps({"jsonrpc": "2.0", "method": m, "params": p}).encode()
        s.sendall(struct.pack("<I", len(b)) + b)
    s.recv(1000)
except OSError as e:
    pass
raise SystemExit(7)`)
	if r.out != "connected\n" || r.code != 7 {
		t.Errorf("exit %d, stdout %q, stderr %q; want 7", r.code, r.out, r.err)
	}
}
