package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// handlerOf is the process that serves the faults of an instance.
func (h *host) handlerOf(name string) (pid int) {
	h.t.Helper()
	owner := h.owner(name)
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, p := range procs {
		c, _ := os.ReadFile(p + "/cmdline")
		if strings.Contains(string(c), "serve-faults") && strings.Contains(strings.ReplaceAll(string(c), "}", ","), `"owner":`+strconv.Itoa(owner)+",") {
			pid, _ = strconv.Atoi(filepath.Base(p))
			return pid
		}
	}
	return 0
}

// TestALazilyRestoredRedisIsWholeAndEndsWithItsFile restores lazily, kills the
// handler, snapshots and upgrades the copy, and then damages the file below
// another copy.
func TestALazilyRestoredRedisIsWholeAndEndsWithItsFile(t *testing.T) {
	h := newHost(t)
	tag := filepath.Base(h.root)
	t.Cleanup(func() { h.hvctl("snapshot", "rm", tag) })
	h.ok("run", "-d", "--name", "web", "--kernel", fast, "-p", "127.0.0.1::6379", "redis")
	if got := h.redis("web", "SET k v"); got != "+OK" {
		t.Fatal(got)
	}
	h.ok("exec", "web", "sh", "-c", "head -c 16000000 /dev/urandom >/tmp/f; md5sum /tmp/f >/tmp/sum")
	h.ok("snapshot", "create", "web", "--tag", tag)
	h.ok("rm", "-f", "web")

	h.ok("restore", "--lazy", tag, "--name", "one")
	first := h.handlerOf("one")
	if first == 0 {
		t.Fatal("there is no fault handler")
	}
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := h.redis("one", "GET k"); got != "$1 v" {
		t.Errorf("k is %q", got)
	}
	if got := h.ok("exec", "one", "md5sum", "-c", "/tmp/sum"); !strings.Contains(got, "OK") {
		t.Errorf("md5sum says %q", got)
	}
	eventually(t, "another handler is there", func() bool { p := h.handlerOf("one"); return p != 0 && p != first })
	h.ok("upgrade", "one") // needs all of the memory
	if p := h.handlerOf("one"); p != 0 {
		t.Errorf("process %d still serves faults", p)
	}
	if got := h.ok("exec", "one", "md5sum", "-c", "/tmp/sum"); !strings.Contains(got, "OK") {
		t.Errorf("after the upgrade md5sum says %q", got)
	}
	h.ok("rm", "-f", "one")

	file := filepath.Join(os.Getenv("HVCTL_TEST_STORE"), "snapshots", tag, "snapshot")
	// The first copy has read the file in the guest: that would be read ahead, if a
	// handler could note it. One that a confined owner started may only read here.
	if err := os.Remove(filepath.Join(filepath.Dir(file), "working-set")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	h.ok("restore", "--lazy", tag, "--name", "two")
	if err := os.Truncate(file, 4<<20); err != nil { // root may, whatever its mode
		t.Fatal(err)
	}
	r := h.hvctl("exec", "two", "md5sum", "-c", "/tmp/sum")
	if strings.Contains(r.out, "FAILED") || strings.Contains(r.out, "OK") {
		t.Errorf("the guest read a file that is not there: %q", r.out)
	}
	h.hvctl("wait", "two")
	if got := h.inspect("two", "{{.State.Exit.Err}}"); !strings.Contains(got, "cut off") {
		t.Errorf("it ended with %q", got)
	}
}
