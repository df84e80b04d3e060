package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// handOver sends from to to by post-copy, and returns when the guest runs there and
// lacks memory.
func (h *host) handOver(from, to, rate string) (sent *session) {
	h.t.Helper()
	at := "unix:" + filepath.Join(h.root, ".sock"+to)
	done := h.receive(to, at)
	sent = h.start("migrate", "send", from, "--to", at, "--mode", "postcopy", "--rate", rate)
	done()
	if got := h.ok("migrate", "status", from); !strings.Contains(got, "it runs at "+at) {
		h.t.Fatalf("%s does not serve: %s", from, got)
	}
	return sent
}

func (h *host) signal(pid int, s unix.Signal) {
	h.t.Helper()
	if err := unix.Kill(pid, s); err != nil {
		h.t.Fatal(err)
	}
}

// Processes of a post-copy stand still or are killed: there is one runner, or the
// guest is lost and that is said. That of the source is killed in
// TestAMigrationIsCancelled.
func TestProcessesOfAPostCopyAreKilled(t *testing.T) {
	h := newHost(t)
	h.ok("run", "-d", "--name", "vm0", "--kernel", fast, "--network", "none", "debian:bookworm", "sleep", "1000")
	h.ok("exec", "vm0", "sh", "-c", "head -c 8000000 /dev/urandom >/tmp/f; md5sum /tmp/f >/tmp/sum")

	// The link stands still, the handler is killed: the guest goes on afterwards.
	sent := h.handOver("vm0", "vm1", "4M")
	for _, verb := range []string{"pause", "stop", "exec"} {
		args := []string{verb, "vm0"}
		if verb == "exec" {
			args = append(args, "true")
		}
		if r := h.hvctl(args...); r.code == 0 || !strings.Contains(r.err, "it runs at unix:") {
			t.Errorf("%s of what was left behind: exit %d, %s", verb, r.code, r.err)
		}
	}
	sum := h.start("exec", "vm1", "md5sum", "-c", "/tmp/sum")
	source, handler := h.owner("vm0"), h.handlerOf("vm1")
	h.signal(source, unix.SIGSTOP)
	begin := time.Now()
	if got := h.inspect("vm1", "{{.Inspect.memoryFollows}} {{.State.Status}}"); got != "true running" {
		t.Errorf("inspect while the link stands still: %q", got)
	}
	h.ok("stats", "--no-stream", "vm1")
	if r := h.hvctl("migrate", "recover", "vm1"); !strings.Contains(r.err, "from where it was before") {
		t.Errorf("recover at the destination: %s", r.err)
	}
	t.Logf("answered within %v", time.Since(begin))
	h.signal(source, unix.SIGCONT)
	h.signal(handler, unix.SIGKILL)
	if code := sent.wait(); code != 0 || !strings.Contains(sent.text(), "post-copy drained") || strings.Contains(sent.text(), "by the guest's clock not known") {
		t.Errorf("send: exit %d\n%s", code, sent.text())
	}
	if code := sum.wait(); code != 0 || !strings.Contains(sum.text(), "OK") {
		t.Errorf("the guest's memory: exit %d, %s", code, sum.text())
	}

	// The destination is killed: the source says so, and waits for a word.
	sent = h.handOver("vm1", "vm2", "1M")
	h.signal(h.owner("vm2"), unix.SIGKILL)
	eventually(t, "the source notices", func() bool {
		return strings.Contains(h.ok("migrate", "status", "vm1"), "is not reached")
	})
	h.ok("migrate", "resolve", "vm1", "--keep", "destination")
	if code := sent.wait(); code == 0 || !strings.Contains(sent.text(), "given-up") {
		t.Errorf("send to a destination that was killed: exit %d, %s", code, sent.text())
	}
	h.ok("wait", "vm1")
	if got := h.inspect("vm2", "{{.State.Status}}"); got == "running" {
		t.Error("vm2 is said to run")
	}
}
