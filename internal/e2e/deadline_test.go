package e2e

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCPUDeadline: the host keeps the promise to a VM's processors and to a
// container's first process, and refuses one that it cannot keep.
func TestCPUDeadline(t *testing.T) { onBoth(t, cpuDeadline) }

func cpuDeadline(t *testing.T, h *host) {
	h.ok(h.run("-d", "--name", "prompt", "--network", "none", "--cpu-deadline", "5ms,10ms,20ms", "debian:bookworm", "sleep", "1000")...)
	template := "{{.State.PID}}"
	if h.kind.name == ctr.name {
		template = "{{.Inspect.pid}}"
	}
	pid := strings.TrimSpace(h.ok("inspect", "--format", template, "prompt"))
	tasks, err := filepath.Glob("/proc/" + pid + "/task/*")
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, task := range tasks {
		tid, err := strconv.Atoi(filepath.Base(task))
		if err != nil {
			t.Fatal(err)
		}
		if a, err := unix.SchedGetAttr(tid, 0); err == nil && a.Policy == unix.SCHED_DEADLINE {
			kept = append(kept, fmt.Sprint(a.Runtime, a.Deadline, a.Period))
		}
	}
	if len(kept) != 1 || kept[0] != "5000000 10000000 20000000" {
		t.Errorf("threads with a deadline: %q", kept)
	}
	h.ok("rm", "-f", "prompt")
}
