package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestARunningVMGetsANewOwner upgrades a redis with a client inside that never
// reconnects, one outside over a published port, an attached one, a disk, memory that
// it was given later and a process of exec's. None of the guest may notice.
func TestARunningVMGetsANewOwner(t *testing.T) {
	h := newHost(t)
	disk := filepath.Join(h.root, ".disk")
	if err := os.WriteFile(disk, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	h.ok("run", "-d", "--name", "web", "--kernel", fast, "--max-memory", "1G", "-p", "127.0.0.1::6379", "--disk", "path="+disk, "redis")
	h.ok("update", "--memory", "600M", "web")
	if got := h.redis("web", "SET k v"); got != "+OK" {
		t.Fatal(got)
	}
	h.ok("exec", "web", "sh", "-c", "echo mark >/tmp/f; printf before | dd of=/dev/vdb conv=fsync 2>/dev/null")
	h.ok("exec", "-d", "web", "sh", "-c", "while :; do redis-cli -r 1000000 -i 0.01 INCR ticks >/dev/null; echo ended >>/tmp/clients; done")
	eventually(t, "the client in the guest counts", func() bool { return h.redis("web", "GET ticks") != "$-1" })

	outside, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.port("web")))
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	ask := func(command string) string {
		_ = outside.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(outside, "%s\r\n", command)
		line, err := bufio.NewReader(outside).ReadString('\n')
		if err != nil {
			t.Errorf("%s over a connection that was there before: %v", command, err)
		}
		return strings.TrimSpace(line)
	}
	if got := ask("PING"); got != "+PONG" {
		t.Fatal(got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	wait := h.command(ctx, "wait", "web")
	var waited strings.Builder
	wait.Stdout, wait.Stderr = &waited, &waited
	attach := h.command(ctx, "attach", "web")
	var attached strings.Builder
	attach.Stderr = &attached
	for _, c := range []interface{ Start() error }{wait, attach} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
	}
	started := h.inspect("web", "{{.State.Started}}")
	keeper := h.inspect("web", "{{.Inspect.networkPid}}")
	if b, err := os.ReadFile("/proc/" + keeper + "/status"); err != nil || !strings.Contains(string(b), "\nSeccomp:\t2") || !strings.Contains(string(b), "\nCapPrm:\t0000000000001000") {
		t.Errorf("the keeper of the network, process %q, is not confined to CAP_NET_ADMIN: %v\n%s", keeper, err, b)
	}

	for range 3 {
		old := h.owner("web")
		var r struct{ BlackoutNs, PauseNs, SaveNs, LoadNs, CommitNs time.Duration }
		if err := json.Unmarshal([]byte(h.ok("upgrade", "--json", "web")), &r); err != nil {
			t.Fatal(err)
		}
		t.Logf("stood still %v: pause %v, save %v, load %v, commit %v", r.BlackoutNs, r.PauseNs, r.SaveNs, r.LoadNs, r.CommitNs)
		if now := h.owner("web"); now == old {
			t.Errorf("the owner is still process %d", now)
		}
		if got := h.redis("web", "GET k"); got != "$1 v" {
			t.Errorf("k is %q", got)
		}
		if got := ask("PING"); got != "+PONG" {
			t.Errorf("the old connection answers %q", got)
		}
	}
	confinedWhole(t, h, "web")
	if now := h.inspect("web", "{{.State.Started}}"); now != started {
		t.Errorf("it was started at %s, and now at %s", started, now)
	}
	if now := h.inspect("web", "{{.Inspect.networkPid}}"); now != keeper {
		t.Errorf("the keeper of the network was process %s, and is %s", keeper, now)
	}
	if n := h.counter("web", "mem.plugged_bytes"); n != 88<<20 {
		t.Errorf("it has %d MiB of memory more than at the start, was given 88", n>>20)
	}
	h.ok("update", "--memory", "700M", "web")
	h.ok("update", "--memory", "512M", "web")
	before := h.redis("web", "GET ticks")
	eventually(t, "the client in the guest still counts", func() bool { return h.redis("web", "GET ticks") != before })
	if got := strings.Fields(h.ok("exec", "web", "sh", "-c", "cat /tmp/f; dd if=/dev/vdb bs=6 count=1 2>/dev/null; cat /tmp/clients 2>/dev/null || true")); strings.Join(got, " ") != "mark before" {
		t.Errorf("the guest says %q", got)
	}
	h.ok("exec", "web", "sh", "-c", "printf after_ | dd of=/dev/vdb conv=fsync 2>/dev/null")
	if b, err := os.ReadFile(disk); err != nil || string(b[:6]) != "after_" {
		t.Errorf("the disk begins with %q (%v)", b[:6], err)
	}
	h.ok("pause", "web")
	if r := h.hvctl("upgrade", "web"); r.code == 0 || !strings.Contains(r.err, "resume") {
		t.Errorf("upgrade of a paused VM: exit %d, %s", r.code, r.err)
	}
	h.ok("resume", "web")
	h.ok("stop", "-t", "20", "web")
	if err := wait.Wait(); err != nil || strings.TrimSpace(waited.String()) != "0" {
		t.Errorf("wait: %v, %q", err, waited.String())
	}
	if err := attach.Wait(); err != nil || !strings.Contains(attached.String(), "new owner") {
		t.Errorf("attach: %v, %q", err, attached.String())
	}
	_ = outside.Close()
}

// TestAnUpgradeThatFailsLeavesTheOldOwner tries owners that cannot take over, and one
// that can, which has a shared directory with an open file then.
func TestAnUpgradeThatFailsLeavesTheOldOwner(t *testing.T) {
	h := newHost(t)
	share := t.TempDir()
	h.ok("run", "-d", "--name", "web", "--kernel", fast, "--network", "none", "-v", share+":/data", "debian:bookworm",
		"sh", "-c", "exec 3>>/data/log; while :; do echo line >&3; sleep 0.2; done")
	written := func() int {
		b, _ := os.ReadFile(filepath.Join(share, "log")) // not there yet
		return len(b)
	}
	old := h.owner("web")
	silent := filepath.Join(h.root, ".silent")
	if err := os.WriteFile(silent, []byte("#!/bin/sh\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for program, says := range map[string]string{
		"/none/hvctl-vmm": "no such file",
		silent:            "ended before it was prepared",
	} {
		if r := h.hvctl("upgrade", "--program", program, "web"); r.code == 0 || !strings.Contains(r.err, says) {
			t.Errorf("%s: exit %d, %s", program, r.code, r.err)
		}
		if now := h.owner("web"); now != old {
			t.Errorf("the owner is %d, it was %d", now, old)
		}
		h.ok("exec", "web", "true")
	}
	h.ok("upgrade", "web")
	h.ok("exec", "web", "true")
	so := written()
	eventually(t, "an open file of a shared directory is written on to", func() bool { return written() > so })

	// What is killed afterwards is the new owner, and nobody runs the VM then.
	if err := unix.Kill(h.owner("web"), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the VM is known to be dead", func() bool { return h.inspect("web", "{{.State.Status}}") == "dead" })
	h.ok("rm", "-f", "web")
}
