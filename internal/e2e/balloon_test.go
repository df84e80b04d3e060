package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pss is the memory of an instance's owner, guest RAM included, in bytes.
func (h *host) pss(name string) (n int64) {
	h.t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%s/smaps_rollup", h.inspect(name, "{{.State.PID}}")))
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if _, err := fmt.Sscanf(s.Text(), "Pss: %d kB", &n); err == nil {
			return n << 10
		}
	}
	h.t.Fatal("no Pss in smaps_rollup")
	return 0
}

// counter is one of the counters of an instance, as stats shows it.
func (h *host) counter(name, counter string) uint64 {
	h.t.Helper()
	var all []struct {
		Stats struct{ Counters map[string]uint64 }
	}
	if err := json.Unmarshal([]byte(h.ok("stats", "--no-stream", "--interval", "10ms", "--json", name)), &all); err != nil || len(all) != 1 {
		h.t.Fatal(err, len(all))
	}
	return all[0].Stats.Counters[counter]
}

// What a guest has free leaves the host's memory, and so does what the balloon
// takes; both hold in a copy that is made of a snapshot, and so do processors that came.
func TestMemoryGivenBackIsGone(t *testing.T) {
	const mib = 1 << 20
	h := newHost(t)
	tag := filepath.Base(h.root)
	t.Cleanup(func() { h.hvctl("snapshot", "rm", tag) })
	h.ok("run", "-d", "--name", "b", "--kernel", fast, "--memory", "512m", "--network", "none", "--balloon", "0", "--max-cpus", "3", "debian:bookworm", "sleep", "1000")

	h.ok("exec", "b", "sh", "-c", "head -c 64M /dev/zero >/dev/shm/f") // one page each, though of zeroes
	full := h.pss("b")
	if full < 64*mib {
		t.Fatalf("the owner has %d MiB while its guest uses 64", full/mib)
	}
	h.ok("exec", "b", "rm", "/dev/shm/f")
	eventually(t, "free memory is given back", func() bool { return h.pss("b") < full-56*mib })
	t.Logf("PSS %d MiB with 64 MiB used, %d MiB after they were freed", full/mib, h.pss("b")/mib)

	h.ok("update", "--balloon", "300M", "b")
	eventually(t, "the balloon has its size", func() bool { return h.counter("b", "balloon.actual_bytes") == 300*mib })
	if free := h.counter("b", "balloon.guest_free_bytes"); free == 0 || free > 200*mib {
		t.Errorf("the guest says that it has %d MiB free of 512", free/mib)
	}
	if r := h.hvctl("update", "--balloon", "512M", "b"); r.code == 0 || !strings.Contains(r.err, "cannot all be taken") {
		t.Errorf("all of the memory: exit %d, %q", r.code, r.err)
	}

	m := h.ok("metrics", "b")
	for _, want := range []string{"hvctl_kvm_exits_total{", `reason="halt"`, `hvctl_device_read_latency_seconds_bucket{`, `device="root",le="+Inf"`, "hvctl_device_guest_available_bytes{", "hvctl_migration_state{"} {
		if !strings.Contains(m, want) {
			t.Errorf("metrics have no %s:\n%s", want, m)
		}
	}
	if got := h.ok("top", "--once", "--interval", "100ms"); !strings.Contains(got, "\nb ") {
		t.Errorf("top shows %q", got)
	}

	nproc := func(name string, want int) {
		t.Helper()
		if got := h.ok("exec", name, "nproc"); got != fmt.Sprintln(want) {
			t.Errorf("%s has %q processors, want %d", name, got, want)
		}
	}
	nproc("b", 1)
	h.ok("update", "--vcpus", "3", "b")
	nproc("b", 3)
	h.ok("update", "--vcpus", "2", "b")
	nproc("b", 2)

	h.ok("snapshot", "create", "b", "--tag", tag)
	h.ok("rm", "-f", "b")
	h.ok("restore", tag, "--name", "c")
	if got := h.counter("c", "balloon.actual_bytes"); got != 300*mib {
		t.Errorf("the copy's balloon has %d MiB", got/mib)
	}
	nproc("c", 2)
	h.ok("update", "--vcpus", "1", "c")
	nproc("c", 1)
	h.ok("update", "--balloon", "0", "c")
	eventually(t, "the balloon is empty", func() bool { return h.counter("c", "balloon.actual_bytes") == 0 })
	h.ok("exec", "c", "sh", "-c", "head -c 16M /dev/zero >/dev/shm/f && rm /dev/shm/f")
}
