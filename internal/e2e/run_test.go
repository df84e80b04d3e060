package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fast is what tests boot that are not about kernels.
const fast = "minimal"

// cached shows how much a guest caches, before and after it reads some of its image.
const cached = `grep ^Cached: /proc/meminfo
	find /usr/lib -name '*.so.*' -type f -size +1000k -exec cat {} + >/dev/null; grep ^Cached: /proc/meminfo`

// TestKernelsBoot: the stock Debian kernels and ours run a workload on both
// transports, small and large, with the image as a disk and as memory. HVCTL_TEST_FULL=1
// runs every combination; otherwise each pair of values occurs with our kernel, and
// one with each of the stock ones (package machine's tests boot them otherwise).
func TestKernelsBoot(t *testing.T) {
	full := os.Getenv("HVCTL_TEST_FULL") != ""
	some := map[string]bool{"cloud-pci-1-128M": true, "generic-mmio-1-128M": true}
	for _, kernel := range []string{"minimal", "cloud", "generic"} {
		for i, transport := range []string{"mmio", "pci"} {
			for j, cpus := range []string{"1", "4"} {
				for k, memory := range []string{"128M", "4G"} {
					name := strings.Join([]string{kernel, transport, cpus, memory}, "-")
					if !full && !some[name] && (kernel != fast || (i+j+k)%2 == 1) {
						continue
					}
					t.Run(name, func(t *testing.T) {
						h := newHost(t)
						rootfs := "blk"
						if kernel == "cloud" && memory == "128M" {
							rootfs = "pmem"
						}
						out := h.ok("run", "--rm", "--network", "none", "--kernel", kernel, "--transport", transport, "--rootfs", rootfs,
							"--cpus", cpus, "-m", memory, "debian:bookworm", "sh", "-c", "nproc; grep MemTotal /proc/meminfo; uname -r; "+cached)
						var n, kib, before, after int
						var rel string
						if _, err := fmt.Sscanf(out, "%d\nMemTotal: %d kB\n%s\nCached: %d kB\nCached: %d kB", &n, &kib, &rel, &before, &after); err != nil {
							t.Fatalf("output %q: %v", out, err)
						}
						if grown := after - before; (grown > 4<<10) != (rootfs == "blk") {
							t.Errorf("reading the image's largest libraries, by %s, makes the guest's cache %d KiB larger", rootfs, grown)
						}
						if fmt.Sprint(n) != cpus {
							t.Errorf("%d CPUs, want %s", n, cpus)
						}
						if memory == "4G" && kib < 3800<<10 || memory == "128M" && kib > 128<<10 {
							t.Errorf("%d KiB of memory with -m %s", kib, memory)
						}
						want := map[string]string{"minimal": "hvctl", "cloud": "cloud-amd64", "generic": "-amd64"}[kernel]
						if !strings.Contains(rel, want) {
							t.Errorf("kernel %s runs as %s", kernel, rel)
						}
					})
				}
			}
		}
	}
}

func TestExitStatusAndStreamsArePassedOn(t *testing.T) {
	onBoth(t, exitStatusAndStreams)
}

func exitStatusAndStreams(t *testing.T, h *host) {
	for _, c := range []struct {
		name     string
		args     []string
		out, err string
		code     int
	}{
		{"status and both streams", []string{"sh", "-c", "echo out; echo err >&2; exit 7"}, "out\n", "err\n", 7},
		{"signal of a child", []string{"sh", "-c", "sh -c 'kill -TERM $$'; exit $?"}, "", "terminated", 143},
		{"not found", []string{"nosuch"}, "", `"nosuch": executable file not found`, 127},
		{"not executable", []string{"/etc/passwd"}, "", "permission denied", 126},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := h.in(t)
			r := h.hvctl(h.run(append([]string{"--rm", "--network", "none", "debian:bookworm"}, c.args...)...)...)
			if r.code != c.code || r.out != c.out || !strings.Contains(strings.ToLower(r.err), strings.ToLower(c.err)) {
				t.Errorf("exit %d, stdout %q, stderr %q; want %d, %q, %q\n%s", r.code, r.out, r.err, c.code, c.out, c.err, h.consoles())
			}
		})
	}
}

func TestStdinReachesTheWorkload(t *testing.T) { onBoth(t, stdinReaches) }

func stdinReaches(t *testing.T, h *host) {
	c := h.command(t.Context(), h.run("--rm", "-i", "--network", "none", "debian:bookworm", "sha256sum")...)
	c.Stdin = strings.NewReader(strings.Repeat("0123456789abcdef", 1<<16)) // 1 MiB
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, h.consoles())
	}
	local := exec.Command("sha256sum")
	local.Stdin = strings.NewReader(strings.Repeat("0123456789abcdef", 1<<16))
	want, err := local.Output()
	if err != nil || string(out) != string(want) {
		t.Errorf("digest in the instance %s, here %s (%v)", out, want, err)
	}
}

// TestLifecycle: every verb on one instance.
// confinedWhole tells whether everything holds that can hold a VM's process: it is
// not even root's, who has started it.
func confinedWhole(t *testing.T, h *host, name string) {
	t.Helper()
	var checks []struct{ Name, Status, Detail string }
	if err := json.Unmarshal([]byte(h.ok("doctor", "--json", "--self", name)), &checks); err != nil || len(checks) < 8 {
		t.Fatalf("doctor --self says %+v (%v)", checks, err)
	}
	for _, c := range checks {
		if c.Status != "ok" || c.Name == "user" && !strings.Contains(c.Detail, "this VM's own") {
			t.Errorf("%s: %s: %s", c.Name, c.Status, c.Detail)
		}
	}
}

func TestLifecycle(t *testing.T) { onBoth(t, lifecycle) }

func lifecycle(t *testing.T, h *host) {
	h.ok(h.run("-d", "--name", "life", "--network", "none", "--pids-limit", "50", "debian:bookworm", "sh", "-c",
		"trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 1 & wait $!; done")...)
	eventually(t, "the workload says ready", func() bool { return strings.Contains(h.ok("logs", "life"), "ready") })
	if out := h.ok("exec", "life", "sh", "-c", "echo $((6*7)); cat /proc/1/comm"); out != "42\nsh\n" {
		t.Errorf("exec printed %q", out)
	}
	if out := h.ok("ps"); !strings.Contains(out, "life") || !strings.Contains(out, "Up ") || !strings.Contains(out, " "+h.kind.name+" ") {
		t.Errorf("ps printed %s", out)
	}
	var tasks []struct {
		PID     int
		Command string
	}
	if err := json.Unmarshal([]byte(h.ok("top", "--json", "life")), &tasks); err != nil || len(tasks) < 1 || tasks[0].PID != 1 || !strings.HasPrefix(tasks[0].Command, "sh -c trap") {
		t.Errorf("top printed %+v (%v)", tasks, err)
	}
	copyFiles(t, h)
	h.ok("pause", "life")
	if out := h.ok("inspect", "--format", "{{.State.Status}}", "life"); strings.TrimSpace(out) != "paused" {
		t.Errorf("status %q after pause", out)
	}
	h.ok("resume", "life")
	if out := h.ok("exec", "life", "echo", "awake"); out != "awake\n" {
		t.Errorf("exec after resume printed %q", out)
	}
	if out := h.ok("stats", "--no-stream", "--json", "life"); !strings.Contains(out, "cpuNanoseconds") {
		t.Errorf("stats printed %s", out)
	}
	h.ok("update", "--cpus", "0.5", "--cpu-weight", "50", "--pids-limit", "40", "life")
	if out := h.ok("inspect", "--format", "{{.State.Limits.CPUs}} {{.State.Limits.PIDs}}", "life"); strings.TrimSpace(out) != "0.5 40" {
		t.Errorf("limits after an update: %q", out)
	}
	if out := h.ok("exec", "life", "cat", "/sys/fs/cgroup/pids.max"); out != "40\n" {
		t.Errorf("inside, the limit of processes is %q after an update", out)
	}
	if h.kind.name == vm.name {
		confinedWhole(t, h, "life")
	}
	h.ok("stop", "life")
	if r := h.hvctl("wait", "life"); strings.TrimSpace(r.out) != "3" {
		t.Errorf("wait printed %q, %q: the TERM handler exits with 3", r.out, r.err)
	}
	if out := h.ok("logs", "life"); !strings.HasSuffix(out, "bye\n") {
		t.Errorf("log %q misses the last words", out)
	}
	h.ok("rm", "life")
	h.ok(h.run("-d", "--name", "life", "--network", "none", "debian:bookworm", "sleep", "1000")...)
	h.ok("kill", "-s", "KILL", "life")
	if r := h.hvctl("wait", "life"); strings.TrimSpace(r.out) != "137" {
		t.Errorf("wait after SIGKILL printed %q, %q", r.out, r.err)
	}
	h.ok("rm", "life")
	var seen []string
	for line := range strings.Lines(h.ok("events", "--json", "--no-follow", "life")) {
		var e struct{ Type string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("event %q: %v", line, err)
		}
		if !slices.Contains(seen, e.Type) {
			seen = append(seen, e.Type)
		}
	}
	if want := []string{"start", "exec_start", "exec_exit", "pause", "resume", "update", "stop", "exit", "signal"}; !slices.Equal(seen, want) {
		t.Errorf("events %v, want %v", seen, want)
	}
}

// copyFiles copies a tree into the instance life and out again.
func copyFiles(t *testing.T, h *host) {
	t.Helper()
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	if err := errors.Join(os.MkdirAll(src+"/sub", 0o755), os.WriteFile(src+"/sub/f", []byte("carried"), 0o640), os.Symlink("sub/f", src+"/l")); err != nil {
		t.Fatal(err)
	}
	h.ok("cp", src, "life:/tmp/there")
	if out := h.ok("exec", "life", "sh", "-c", "cat /tmp/there/l; stat -c ' %a %u' /tmp/there/sub/f"); out != "carried 640 0\n" {
		t.Errorf("in the instance: %q", out)
	}
	h.ok("cp", "life:/tmp/there/.", dst)
	if out, err := exec.CommandContext(t.Context(), "diff", "-r", "--no-dereference", src, dst).CombinedOutput(); err != nil {
		t.Errorf("what came back differs: %s", out)
	}
	if r := h.hvctl("cp", "life:/nonexistent", dst); r.code != 125 || !strings.Contains(r.err, "life: open /nonexistent: no such file") {
		t.Errorf("a missing file: exit %d, %q", r.code, r.err)
	}
}

// TestKilledOwnerBlocksNothing: SIGKILL of the owner, then the same name again.
func TestKilledOwnerBlocksNothing(t *testing.T) { onBoth(t, killedOwner) }

func killedOwner(t *testing.T, h *host) {
	run := h.run("-d", "--name", "phoenix", "debian:bookworm", "sleep", "1000")
	for range 2 {
		h.ok(run...)
		h.kill(t, "phoenix")
		eventually(t, "the instance is known to be dead", func() bool {
			return strings.TrimSpace(h.ok("inspect", "--format", "{{.State.Status}}", "phoenix")) == "dead"
		})
	}
	h.ok("rm", "phoenix")
}

func TestManyInARowLeakNothing(t *testing.T) { onBoth(t, manyInARow) } // the host compares before and after

func manyInARow(t *testing.T, h *host) {
	n := 5
	if os.Getenv("HVCTL_TEST_FULL") != "" {
		n = 100
	}
	for i := range n {
		if out := h.ok(h.run("--rm", "debian:bookworm", "echo", fmt.Sprint(i))...); out != fmt.Sprintln(i) {
			t.Fatalf("run %d printed %q", i, out)
		}
	}
}

func TestEightAtOnce(t *testing.T) { onBoth(t, eightAtOnce) }

func eightAtOnce(t *testing.T, h *host) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if r := h.hvctl(h.run("--rm", "-m", "128M", "debian:bookworm", "echo", fmt.Sprint(i))...); r.out != fmt.Sprintln(i) || r.code != 0 {
				t.Errorf("instance %d: exit %d, %q, %q", i, r.code, r.out, r.err)
			}
		})
	}
	wg.Wait()
}

// TestFsyncedDataSurvives: what the guest fsynced is on the disk after a clean
// stop and after SIGKILL of the VMM. The guest copies random data from one disk
// to another, so that it need not compute anything.
func TestFsyncedDataSurvives(t *testing.T) {
	size := int64(64 << 20)
	if os.Getenv("HVCTL_TEST_FULL") != "" {
		size = 256 << 20
	}
	h := newHost(t)
	dir := t.TempDir()
	source := filepath.Join(dir, "source.img")
	if err := randomFile(source, size); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"clean", "SIGKILL"} {
		t.Run(end, func(t *testing.T) {
			h := h.in(t)
			disk := filepath.Join(dir, end+".img")
			if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, size)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { h.hvctl("rm", "-f", "writer") }) // the next one has its name
			h.ok("run", "-d", "--name", "writer", "--network", "none", "--kernel", fast, "--disk", "path="+source+",ro", "--disk", "path="+disk,
				"debian:bookworm", "sh", "-c", "dd if=/dev/vdb of=/dev/vdc bs=1M conv=fsync status=none && echo written && exec sleep 1000")
			eventually(t, "the guest has written it all", func() bool { return h.ok("logs", "writer") == "written\n" })
			if end == "clean" {
				h.ok("stop", "-t", "1", "writer")
			} else {
				h.kill(t, "writer")
			}
			if out, err := exec.CommandContext(t.Context(), "cmp", source, disk).CombinedOutput(); err != nil {
				t.Errorf("the disk has not what the guest wrote: %v: %s", err, out)
			}
		})
	}
}

// randomFile makes a file of n random bytes.
func randomFile(path string, n int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), n)
	return errors.Join(err, f.Close())
}

func (h *host) kill(t *testing.T, name string) {
	t.Helper()
	var pid int
	if _, err := fmt.Sscan(h.ok("inspect", "--format", "{{.State.PID}}", name), &pid); err != nil || pid < 2 {
		t.Fatal(pid, err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// TestBadInputIsRefused: one clear message, nothing left behind.
func TestBadInputIsRefused(t *testing.T) {
	h := newHost(t)
	file := func(name, content string) string {
		p := t.TempDir() + "/" + name
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	base := []string{"run", "--rm", "--network", "none", "--kernel", fast}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown image", append(base, "--pull", "never", "nosuch:1", "true"), "nosuch:1"},
		{"unknown kernel", []string{"run", "--rm", "--kernel", "nosuch", "debian:bookworm", "true"}, "nosuch"},
		{"truncated kernel", []string{"run", "--rm", "--kernel", file("vmlinuz", "MZ short"), "debian:bookworm", "true"}, "vmlinuz"},
		{"too little memory", append(base, "-m", "24M", "debian:bookworm", "true"), "24 MiB"},
		{"memory without its unit", append(base, "-m", "256", "debian:bookworm", "true"), "write 256m"},
		{"too many vCPUs", append(base, "--cpus", "1000", "debian:bookworm", "true"), "1000"},
		{"command line too long", append(base, "--cmdline", strings.Repeat("x", 4000), "debian:bookworm", "true"), "command line"},
		{"odd disk", append(base, "--disk", "path="+file("odd.img", "not 512 bytes"), "debian:bookworm", "true"), "512"},
		{"missing disk", append(base, "--disk", "path=/nonexistent.img", "debian:bookworm", "true"), "/nonexistent.img"},
		{"host network", append([]string{"run", "--rm", "--network", "host"}, "debian:bookworm", "true"), "host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := h.in(t)
			r := h.hvctl(c.args...)
			if r.code != 125 || r.out != "" || !strings.Contains(r.err, c.want) || strings.Count(strings.TrimSpace(r.err), "\n") > 0 {
				t.Errorf("exit %d, stdout %q, stderr %q; want 125 and one line with %q", r.code, r.out, r.err, c.want)
			}
		})
	}
	t.Run("disk in use", func(t *testing.T) {
		h := h.in(t)
		disk := file("d.img", strings.Repeat("x", 4096))
		h.ok("run", "-d", "--name", "holder", "--network", "none", "--kernel", fast, "--disk", "path="+disk, "debian:bookworm", "sleep", "1000")
		if r := h.hvctl(append(base, "--disk", "path="+disk, "debian:bookworm", "true")...); r.code != 125 || !strings.Contains(r.err, "another VM") {
			t.Errorf("exit %d, %q", r.code, r.err)
		}
		if r := h.hvctl("run", "-d", "--name", "holder", "--kernel", fast, "debian:bookworm", "true"); r.code != 125 || !strings.Contains(r.err, "holder") {
			t.Errorf("name in use: exit %d, %q", r.code, r.err)
		}
		h.ok("rm", "-f", "holder")
	})
}
