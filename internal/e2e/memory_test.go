package e2e

import (
	"strconv"
	"strings"
	"testing"
)

// memoryComesAndGoes has a VM of 512 MiB that was started with --max-memory grow, use
// what it got, and shrink.
func memoryComesAndGoes(t *testing.T, h *host, name string) {
	t.Helper()
	const mib = 1 << 20
	total := func() int {
		t.Helper()
		n, err := strconv.Atoi(strings.TrimSpace(h.ok("exec", name, "awk", "/MemTotal/{print int($2/1024)}", "/proc/meminfo")))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	small := total()
	h.ok("update", "--memory", "768M", name)
	eventually(t, "the guest has what it was given", func() bool { return total() > small+240 })
	before := h.pss(name)
	h.ok("exec", name, "sh", "-c", "head -c 32M /dev/zero >/dev/shm/f && rm /dev/shm/f") // of what can be taken back first
	used := h.pss(name)
	h.ok("update", "--memory", "512M", name)
	if n := total(); n != small {
		t.Errorf("the guest has %d MiB, had %d", n, small)
	}
	if after := h.pss(name); used < before+24*mib || after > used-24*mib {
		t.Errorf("the owner has %d MiB after the guest gave memory back, %d while it was in use, %d before", after/mib, used/mib, before/mib)
	}
	if n := h.counter(name, "mem.plugged_bytes"); n != 0 {
		t.Errorf("%d MiB are plugged in", n/mib)
	}
	for size, says := range map[string]string{"256M": "--balloon", "2G": "1024 at most"} {
		if r := h.hvctl("update", "--memory", size, name); r.code == 0 || !strings.Contains(r.err, says) {
			t.Errorf("%s: exit %d, %q", size, r.code, r.err)
		}
	}
	if r := h.hvctl("update", "--memory", "600M", "--cpus", "1", name); r.code == 0 || !strings.Contains(r.err, "one after the other") {
		t.Errorf("with another limit: exit %d, %q", r.code, r.err)
	}
}
