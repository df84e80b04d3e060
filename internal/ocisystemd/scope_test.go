package ocisystemd

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const forever = "while :; do sleep 1; done"

// limits are some that have to reach both systemd and the kernel.
func limits() *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(64 << 20))},
		CPU:     &specs.LinuxCPU{Quota: new(int64(12345)), Period: new(uint64(100000)), Shares: new(uint64(512)), Cpus: "0"},
		Pids:    &specs.LinuxPids{Limit: new(int64(20))},
		Unified: map[string]string{"memory.high": "59998208"},
	}
}

// TestSystemd shares one systemd among what is tried with it.
func TestSystemd(t *testing.T) {
	h := start(t)
	for _, tc := range []struct {
		name string
		run  func(*host)
	}{
		{"a container lives in a scope with its limits", life},
		{"slices nest, and have defaults", inSlices},
		{"limits that a container cannot be made under hold afterwards", fewProcesses},
		{"paths that name no scope are refused", badPaths},
		{"a name is taken once", taken},
		{"a container that ends by itself leaves no unit", endsAlone},
		{"a container that is out of memory leaves no unit", outOfMemory},
		{"a runtime killed on the way leaves what can be deleted", killed},
		{"podman has containers in scopes", podman},
		{"containerd has containers in scopes", containerd},
		{"a container is restored into a scope", restored},
		{"a user's containers are in scopes of the user's manager", users},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(h.in(t)) })
	}
}

func life(h *host) {
	const unit = "oci-life.scope"
	bundle, spec, save := h.bundle("test-life.slice:oci:life", forever, limits())
	mknod := []string{"CAP_MKNOD"}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: mknod, Effective: mknod, Permitted: mknod}
	save()
	h.ok("create", "-b", bundle, "life")
	h.has(unit, "Slice", "test-life.slice", "Delegate", "yes", "ActiveState", "active", "Description", "container life of hvctl-oci",
		"MemoryMax", "67108864", "MemoryHigh", "59998208", "MemorySwapMax", "0", "TasksMax", "20", "CPUWeight", "59",
		"CPUQuotaPerSecUSec", "130ms", "AllowedCPUs", "0",
		"memory.max", "67108864", "memory.high", "59998208", "memory.swap.max", "0", "pids.max", "20", "cpu.weight", "59", "cpuset.cpus", "0",
		"cpu.max", "12345 100000")
	h.ok("start", "life")
	if got := h.ok("exec", "life", "/bin/cat", "/proc/self/cgroup"); got != "0::/" {
		h.t.Errorf("exec is in %q of the container's", got)
	}
	h.ok("pause", "life")
	h.has(unit, "cgroup.events", "populated 1\nfrozen 1")
	h.ok("resume", "life")

	if r := h.systemctl("daemon-reload"); r.code != 0 {
		h.t.Fatal(r)
	}
	h.has(unit, "memory.max", "67108864", "memory.high", "59998208", "memory.swap.max", "0", "pids.max", "20", "cpu.weight", "59", "cpuset.cpus", "0",
		"cpu.max", "13000 100000") // in whole percents, as systemd counts

	h.ok("update", "--memory", "33554432", "--memory-swap", "33554432", "--pids-limit", "30", "--cpu-quota", "20000", "--cpu-period", "100000", "--cpu-share", "1024", "life")
	if r := h.systemctl("daemon-reload"); r.code != 0 {
		h.t.Fatal(r)
	}
	if r := h.oci("exec", "life", "/bin/sh", "-c", "mknod /tmp/kmsg c 1 11 && echo made && dd if=/tmp/kmsg of=/dev/null count=1"); r.out != "made\n" || !strings.Contains(r.err, "Operation not permitted") {
		h.t.Errorf("a device of the host's: %v", r)
	}
	h.has(unit, "MemoryMax", "33554432", "TasksMax", "30", "CPUQuotaPerSecUSec", "200ms", "CPUWeight", "100",
		"memory.max", "33554432", "memory.high", "59998208", "memory.swap.max", "0", "pids.max", "30", "cpu.max", "20000 100000", "cpu.weight", "100")

	h.ok("kill", "life", "KILL")
	h.eventually("it has stopped", func() bool { return strings.Contains(h.ok("state", "life"), `"stopped"`) })
	h.ok("delete", "life")
	h.gone(unit)
}

func inSlices(h *host) {
	for _, tc := range []struct{ path, unit, slice, group string }{
		{"one-two-three.slice:a:b", "a-b.scope", "one-two-three.slice", "/one.slice/one-two.slice/one-two-three.slice/a-b.scope"},
		{"-.slice:a:root", "a-root.scope", "-.slice", "/a-root.scope"},
		{":a:c", "a-c.scope", "system.slice", "/system.slice/a-c.scope"},
		{"", "hvctl-oci-slices.scope", "system.slice", "/system.slice/hvctl-oci-slices.scope"},
		{":odd+:name+", `odd\x2b-name\x2b.scope`, "system.slice", `/system.slice/odd\x2b-name\x2b.scope`},
	} {
		bundle, _, _ := h.bundle(tc.path, forever, nil)
		h.ok("run", "-d", "-b", bundle, "slices")
		h.has(tc.unit, "Slice", tc.slice, "ControlGroup", tc.group)
		// Without the flag it is known all the same whose the container is.
		if r := h.do(h.program, "--root", h.state(), "delete", "-f", "slices"); r.code != 0 {
			h.t.Error(r)
		}
		h.gone(tc.unit)
	}
}

func fewProcesses(h *host) {
	bundle, _, _ := h.bundle(":oci:few", "exec sleep 1000", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(1))}})
	h.ok("run", "-d", "-b", bundle, "few")
	h.has("oci-few.scope", "TasksMax", "1", "pids.max", "1", "pids.current", "1")
	if r := h.oci("exec", "few", "/bin/echo"); r.code == 0 {
		h.t.Error("there is room for another process")
	}
	h.ok("delete", "-f", "few")
	h.gone("oci-few.scope")
}

func badPaths(h *host) {
	for _, tc := range []struct{ path, why string }{
		{"/oci/bad", "SLICE:PREFIX:NAME"},
		{"a--b.slice:oci:bad", "empty part between hyphens"},
		{"a:oci:bad", "NAME.slice"},
		{":oci:bad.slice", "not a slice"},
	} {
		bundle, _, _ := h.bundle(tc.path, forever, nil)
		if r := h.oci("create", "-b", bundle, "bad"); r.code == 0 || !strings.Contains(r.err, tc.why) || !strings.Contains(r.err, tc.path) {
			h.t.Errorf("%s: %v", tc.path, r)
		}
	}
	bundle, _, _ := h.bundle(":oci:bad", forever, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "900"}})
	if r := h.oci("create", "-b", bundle, "bad"); r.code == 0 || !strings.Contains(r.err, "900") {
		h.t.Error(r)
	}
	h.gone("oci-bad.scope")
	if r := h.oci("state", "bad"); r.code == 0 {
		h.t.Errorf("something is left: %v", r)
	}
}

func taken(h *host) {
	bundle, _, _ := h.bundle(":oci:taken", forever, nil)
	h.ok("run", "-d", "-b", bundle, "first")
	if r := h.oci("run", "-d", "-b", bundle, "second"); r.code == 0 || !strings.Contains(r.err, "exists already") {
		h.t.Errorf("a second one in the same scope: %v", r)
	}
	h.has("oci-taken.scope", "ActiveState", "active")
	// One that was killed before it learned that leaves this.
	state := filepath.Join("/proc", strconv.Itoa(h.pid), "root", h.state())
	b, err := os.ReadFile(filepath.Join(state, "first/state.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(b, &record); err != nil {
		h.t.Fatal(err)
	}
	record["id"] = "second"
	delete(record, "cgroup")
	delete(record, "pid")
	if b, err = json.Marshal(record); err == nil {
		if err = os.Mkdir(filepath.Join(state, "second"), 0o700); err == nil {
			err = os.WriteFile(filepath.Join(state, "second/state.json"), b, 0o600)
		}
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.ok("delete", "-f", "second")
	h.has("oci-taken.scope", "ActiveState", "active")
	h.ok("delete", "-f", "first")
	h.gone("oci-taken.scope")
}

func endsAlone(h *host) {
	bundle, _, _ := h.bundle(":oci:alone", "exit 3", nil)
	if r := h.oci("run", "-b", bundle, "alone"); r.code != 3 {
		h.t.Error(r)
	}
	h.gone("oci-alone.scope")
	h.ok("run", "-d", "-b", bundle, "alone")
	h.gone("oci-alone.scope")
	h.ok("delete", "alone")
}

func outOfMemory(h *host) {
	bundle, _, _ := h.bundle(":oci:oom", "tail /dev/zero", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(8 << 20)), Swap: new(int64(8 << 20))}})
	if r := h.oci("run", "-b", bundle, "oom"); r.code == 0 {
		h.t.Error(r)
	}
	h.gone("oci-oom.scope")
}

func killed(h *host) {
	const unit = "oci-killed.scope"
	bundle, spec, save := h.bundle(":oci:killed", forever, nil)
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo $PPID >" + h.dir + "/runtime; sleep 1000"}}}}
	save()
	c := h.command(context.Background(), h.program, "--systemd-cgroup", "--root", h.state(), "create", "-b", bundle, "killed")
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.eventually("the hook runs", func() bool { _, err := os.Stat(filepath.Join(h.dir, "runtime")); return err == nil })
	h.has(unit, "ActiveState", "active")
	var pid string
	h.eventually("the hook has told", func() bool {
		b, _ := os.ReadFile(filepath.Join(h.dir, "runtime"))
		pid = strings.TrimSpace(string(b))
		return pid != ""
	})
	if r := h.do("kill", "-9", pid); r.code != 0 {
		h.t.Fatal(r)
	}
	_ = c.Wait()
	h.ok("delete", "--force", "killed")
	h.gone(unit)
	if r := h.oci("state", "killed"); r.code == 0 {
		h.t.Errorf("something is left: %v", r)
	}
}

func users(h *host) {
	if r := h.do("systemctl", "start", "manager.service"); r.code != 0 {
		h.t.Fatal(r)
	}
	h.user = true
	const unit = "oci-users.scope"
	bundle, _, _ := h.bundle("mine-sub.slice:oci:users", forever, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20))}, Pids: &specs.LinuxPids{Limit: new(int64(20))},
	})
	h.ok("run", "-d", "-b", bundle, "users")
	h.has(unit, "Slice", "mine-sub.slice", "MemoryMax", "67108864", "TasksMax", "20",
		"ControlGroup", "/user.slice/user-1.slice/manager.service/mine.slice/mine-sub.slice/oci-users.scope",
		"memory.max", "67108864", "pids.max", "20")
	if got := h.ok("exec", "users", "/bin/echo", "in"); got != "in" {
		h.t.Errorf("exec: %q", got)
	}
	h.ok("update", "--pids-limit", "30", "users")
	if r := h.systemctl("daemon-reload"); r.code != 0 {
		h.t.Fatal(r)
	}
	h.has(unit, "TasksMax", "30", "pids.max", "30")
	h.ok("delete", "-f", "users")
	h.gone(unit)

	// The name without a slice is in the user's own.
	bundle, _, _ = h.bundle(":oci:users", forever, nil)
	h.ok("run", "-d", "-b", bundle, "users")
	h.has(unit, "Slice", "user.slice")
	h.ok("delete", "-f", "users")
	h.gone(unit)
}

func restored(h *host) {
	testenv.Require(h.t, testenv.CRIU)
	const unit = "oci-restored.scope"
	bundle, _, _ := h.bundle("test-restored.slice:oci:restored", "i=0; while :; do i=$((i+1)); echo $i >/tmp/n; mv /tmp/n /tmp/count; sleep 0.1; done",
		&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20))}, Pids: &specs.LinuxPids{Limit: new(int64(20))}})
	counted := func() int {
		b, _ := os.ReadFile(bundle + "/rootfs/tmp/count")
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return n
	}
	images := filepath.Join(h.dir, "images")
	quiet := func(args ...string) {
		h.t.Helper()
		args = append([]string{"sh", "-c", `exec "$@" </dev/null >/dev/null 2>` + h.dir + "/said", "sh", h.program, "--systemd-cgroup", "--root", h.state()}, args...)
		if r := h.do(args...); r.code != 0 {
			said, _ := os.ReadFile(h.dir + "/said")
			h.t.Fatalf("%v\n%s", r, said)
		}
	}
	quiet("run", "-d", "-b", bundle, "restored")
	h.eventually("it counts", func() bool { return counted() > 10 })
	h.ok("checkpoint", "--image-path", images, "restored")
	h.gone(unit)
	n := counted()
	quiet("restore", "-d", "-b", bundle, "--image-path", images, "restored")
	h.has(unit, "Slice", "test-restored.slice", "ActiveState", "active", "MemoryMax", "67108864", "TasksMax", "20", "memory.max", "67108864", "pids.max", "20")
	h.eventually("it counts on", func() bool { return counted() != n })
	if now := counted(); now < n {
		h.t.Errorf("%d, and then %d", n, now)
	}
	if got := h.ok("exec", "restored", "/bin/cat", "/proc/self/cgroup"); got != "0::/" {
		h.t.Errorf("exec is in %q of the container's", got)
	}
	h.ok("delete", "-f", "restored")
	h.gone(unit)
}

// podman runs containers with the cgroup manager that it has on most machines.
func podman(h *host) {
	root := h.dir + "/podman"
	bundle, _, _ := h.bundle("", "", nil)
	args := []string{
		"env", "HOME=/root", "podman", "--root", root + "/root", "--runroot", "/run/podman-test", "--tmpdir", "/run/podman-test/tmp", "--storage-driver", "vfs",
		"--events-backend", "file", "--cgroup-manager", "systemd", "--runtime", h.program,
	}
	do := func(more ...string) result { return h.do(append(slices.Clip(args), more...)...) }
	r := do("run", "-d", "--name", "web", "--network", "none", "--memory", "64m", "--pids-limit", "50", "--log-driver", "k8s-file", "--rootfs", bundle+"/rootfs", "sleep", "1000")
	if r.code != 0 {
		h.t.Fatal(r)
	}
	unit := "libpod-" + strings.TrimSpace(r.out) + ".scope"
	h.has(unit, "Slice", "machine.slice", "MemoryMax", "67108864", "TasksMax", "50", "ActiveState", "active", "memory.max", "67108864", "pids.max", "50")
	if r := do("exec", "web", "echo", "in"); r.code != 0 || strings.TrimSpace(r.out) != "in" {
		h.t.Error(r)
	}
	if r := do("update", "--memory", "32m", "web"); r.code == 0 { // podman 4.3 has it
		h.has(unit, "MemoryMax", "33554432")
	} else {
		h.t.Error(r)
	}
	if r := do("rm", "-f", "-t", "0", "web"); r.code != 0 {
		h.t.Error(r)
	}
	h.gone(unit)
}

// TestWithoutSystemd: where there is none, that is said, and nothing is left.
func TestWithoutSystemd(t *testing.T) {
	h := newHost(t)
	bundle, _, _ := h.bundle("", forever, nil)
	state := filepath.Join(h.dir, "state")
	began := time.Now()
	said, err := without(h.program, "--systemd-cgroup", "--root", state, "create", "-b", bundle, "none")
	if err == nil || !strings.Contains(said, "systemd cannot be reached") || !strings.Contains(said, "is it PID 1 here?") {
		t.Errorf("%v: %s", err, said)
	}
	if entries, _ := os.ReadDir(state); len(entries) > 0 {
		t.Errorf("something is left: %v", entries)
	}
	t.Logf("after %v: %s", time.Since(began), said)
}
