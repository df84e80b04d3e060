package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

// ramDisk is a block device of the host.
func ramDisk(t *testing.T) string {
	t.Helper()
	if out, err := exec.Command("modprobe", "brd", "rd_nr=1", "rd_size=4096").CombinedOutput(); err != nil {
		t.Fatalf("modprobe brd: %v: %s", err, out)
	}
	return "/dev/ram0"
}

// TestLimitsBindTheVM: a VM's processes live in a cgroup with the limits that
// were asked for; it goes with them, and after a killed owner with the next
// command.
func TestLimitsBindTheVM(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Linux, testenv.Images, testenv.CgroupV2)
	h := newHost(t)
	disk := ramDisk(t)
	run := func(name string) (dir string, owner int) {
		id := strings.TrimSpace(h.ok("run", "-d", "--name", name, "--network", "none", "--kernel", fast,
			"--cpu-weight", "50", "--cpus", "1.5", "--pids-limit", "20", "--device-write-bps", disk+":1M", "debian:bookworm", "sleep", "1000"))
		owner, err := strconv.Atoi(strings.TrimSpace(h.ok("inspect", "--format", "{{.State.PID}}", name)))
		if err != nil {
			t.Fatal(err)
		}
		return "/sys/fs/cgroup/hvctl/vm-" + id, owner
	}
	dir, owner := run("bound")
	for file, want := range map[string]string{
		"cpu.weight": "50", "cpu.max": "150000 100000", "pids.max": "276", "io.max": "1:0 rbps=max wbps=1048576 riops=max wiops=max",
	} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if got := strings.TrimSpace(string(b)); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", file, got, err, want)
		}
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")) // KVM's own threads may be there, too
	if err != nil || !slices.Contains(strings.Fields(string(procs)), strconv.Itoa(owner)) {
		t.Errorf("processes %q, %v; want %d among them", procs, err, owner)
	}
	var stats []struct {
		Stats struct {
			Cgroup struct {
				Path                               string
				CPUNanoseconds, MemoryBytes, Tasks uint64
			}
		}
	}
	if err := json.Unmarshal([]byte(h.ok("stats", "--no-stream", "--json", "bound")), &stats); err != nil {
		t.Fatal(err)
	}
	if len(stats) != 1 || "/sys/fs/cgroup"+stats[0].Stats.Cgroup.Path != dir || stats[0].Stats.Cgroup.CPUNanoseconds == 0 ||
		stats[0].Stats.Cgroup.MemoryBytes < 16<<20 || stats[0].Stats.Cgroup.Tasks < 3 {
		t.Errorf("stats: %+v", stats)
	}
	h.ok("update", "--cpus", "0.5", "--cpu-weight", "10", "--device-write-bps", disk+":0", "--device-read-iops", disk+":50", "bound")
	for file, want := range map[string]string{"cpu.weight": "10", "cpu.max": "50000 100000", "io.max": "1:0 rbps=max wbps=max riops=50 wiops=max"} {
		if b, err := os.ReadFile(filepath.Join(dir, file)); err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s after an update: %q, %v; want %q", file, b, err, want)
		}
	}
	if r := h.hvctl("update", "-m", "1G", "bound"); r.code != 125 || !strings.Contains(r.err, "--memory") {
		t.Errorf("update of the memory: exit %d, %q", r.code, r.err)
	}
	h.ok("kill", "bound")
	h.ok("wait", "bound")
	if _, err := os.Stat(dir); err == nil {
		t.Error("the cgroup outlived its VM")
	}
	h.ok("rm", "bound")

	dir, owner = run("killed")
	if err := unix.Kill(owner, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next command removes the cgroup", func() bool {
		h.ok("ps")
		_, err := os.Stat(dir)
		return err != nil
	})
	h.ok("rm", "killed")
}

// TestOwnSharedMemory: /dev/shm can have a size of one's own.
func TestOwnSharedMemory(t *testing.T) {
	h := newHost(t)
	out := h.ok("run", "--rm", "--network", "none", "--kernel", fast, "--tmpfs", "/dev/shm:size=3m", "debian:bookworm", "df", "-k", "--output=size", "/dev/shm")
	if f := strings.Fields(out); len(f) == 0 || f[len(f)-1] != "3072" {
		t.Errorf("df printed %q", out)
	}
	if r := h.hvctl("run", "--rm", "--network", "none", "--kernel", fast, "--tmpfs", "/proc", "debian:bookworm", "true"); r.code != 125 || !strings.Contains(r.err, "/proc") {
		t.Errorf("tmpfs on /proc: exit %d, %q", r.code, r.err)
	}
}
