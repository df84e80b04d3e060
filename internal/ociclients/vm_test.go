package ociclients

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

// flowsInVMs are those of podmanFlows that go the same way when each container
// is a microVM. docs/oci-vm.md says why the others do not.
var flowsInVMs = []string{
	"run", "exec, health check, pause, kill", "published port, stop, start", "terminal", "read-only root and capabilities",
}

// vmFlows are what is different, or looks at what is.
var vmFlows = []struct {
	name string
	flow func(t *testing.T, p *podman)
}{
	{"its own kernel, volumes, limits", func(t *testing.T, p *podman) {
		dir := t.TempDir()
		file := filepath.Join(dir, "conf")
		if err := os.WriteFile(file, []byte("k=v\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		p.ok("run", "-d", "--name", "v", "--network", "none", "-m", "128m", "-v", dir+":/data", "-v", file+":/etc/app.conf:ro", "--tmpfs", "/scratch", image, "sleep", "1000")
		p.do("exec", "v", "sh", "-c",
			"echo kept >/data/file; cat /etc/app.conf; (echo x >/etc/app.conf) 2>/dev/null || echo protected; echo t >/scratch/t && cat /scratch/t; ls -A /proc/1/root/nonexistent 2>/dev/null; grep -c . /etc/hostname").
			is(t, "k=v\nprotected\nt\n1")
		if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "kept\n" {
			t.Errorf("%q, %v", b, err)
		}
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			t.Fatal(err)
		}
		release, mem, _ := strings.Cut(p.ok("exec", "v", "sh", "-c", "uname -r; grep MemTotal /proc/meminfo"), "\n")
		if release == "" || release == unix.ByteSliceToString(u.Release[:]) {
			t.Errorf("the guest's kernel is %q", release)
		}
		if f := strings.Fields(mem); len(f) != 3 || len(f[1]) > 6 { // below 1 GB, in kB
			t.Errorf("the guest's memory: %q", mem)
		}
		if r := p.do("update", "--memory", "64m", "v"); r.code == 0 || !strings.Contains(r.err, "cannot be changed") {
			t.Error(r)
		}
		p.ok("update", "--cpus", "0.5", "v")
		p.ok("rm", "-f", "-t", "0", "v")
	}},
	{"user namespace", func(t *testing.T, p *podman) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		p.do("run", "--rm", "--network", "none", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", "-v", dir+":/data", image, "sh", "-c",
			"id -u; touch /data/made && stat -c %u /data/made").is(t, "0\n0")
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, "made"), &st); err != nil || st.Uid != 100000 {
			t.Errorf("outside the file belongs to %d, %v", st.Uid, err)
		}
	}},
	{"pod", func(t *testing.T, p *podman) {
		p.ok("pod", "create", "--name", "pod", "-p", "127.0.0.1:18088:80")
		p.ok("run", "--rm", "--pod", "pod", "--name", "before", image, "true") // as init containers are
		p.ok("run", "-d", "--pod", "pod", "--name", "server", image, "httpd", "-f", "-p", "80", "-h", "/www")
		eventually(t, "the page is served at the pod's port", func() bool { return p.do("exec", "server", "true").code == 0 && served("http://127.0.0.1:18088/") })
		p.do("run", "--rm", "--pod", "pod", "--name", "second", image, "sh", "-c", "wget -q -O - http://127.0.0.1/; exit 4").exits(t, 4).says(t, "served")
		p.ok("run", "-d", "--pod", "pod", "--name", "third", image, "sleep", "1000")
		p.do("exec", "third", "cat", "/proc/1/comm").is(t, "sleep")
		if r := p.do("pause", "third"); r.code == 0 || !strings.Contains(r.err, "cannot be paused") {
			t.Error(r)
		}
		p.ok("kill", "third")
		p.do("wait", "third").is(t, "137")
		if !served("http://127.0.0.1:18088/") {
			t.Error("the third container's end was the first one's")
		}
		owner, err := strconv.Atoi(p.ok("inspect", "--format", "{{.State.Pid}}", p.ok("pod", "inspect", "--format", "{{.InfraContainerID}}", "pod")))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(owner, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.do("wait", "server").is(t, "137") // with the VM's owner its containers end
		p.ok("pod", "stop", "-t", "0", "pod")
		p.ok("pod", "rm", "pod")
		p.do("ps", "-aq").is(t, "")
	}},
	{"what a VM cannot", func(t *testing.T, p *podman) {
		for want, args := range map[string][]string{
			"too few":        {"-m", "32m"},
			"host's network": {"--network", "host"},
			"linux.devices":  {"--network", "none", "--device", "/dev/null:/dev/mine"},
		} {
			r := p.do(append(append([]string{"run", "--rm"}, args...), image, "true")...)
			if r.code == 0 || !strings.Contains(r.err, want) {
				t.Errorf("want a refusal with %q; %v", want, r)
			}
		}
	}},
}

// TestPodmanInVMs goes through what people do with podman, each container a
// microVM.
func TestPodmanInVMs(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.CgroupV2, testenv.Linux, testenv.Images)
	p := podmanWith(t, filepath.Join(os.Getenv("HVCTL_BIN"), "hvctl-oci-vm"), "store="+testenv.TestStore())
	flows := vmFlows
	for _, f := range podmanFlows {
		if slices.Contains(flowsInVMs, f.name) {
			flows = append(flows, f)
		}
	}
	if len(flows) != len(vmFlows)+len(flowsInVMs) {
		t.Errorf("%d flows; want %d and %d", len(flows), len(vmFlows), len(flowsInVMs))
	}
	for _, f := range flows {
		t.Run(f.name, func(t *testing.T) {
			f.flow(t, p.in(t))
			if t.Failed() {
				p.do("rm", "-f", "-a", "-t", "0") // the next one starts clean
			}
		})
	}
	left, err := filepath.Glob("/run/hvctl-oci/.vm/*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	t.Logf("%d podman flows in VMs", len(flows))
}

// flowsOfContainerdInVMs are those of containerdFlows that go the same way
// when each container is a microVM.
var flowsOfContainerdInVMs = []string{"run", "exec, pause, kill, rm", "terminal"}

// TestContainerdInVMs drives hvctl-oci-vm by ctr.
func TestContainerdInVMs(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Linux, testenv.Images, testenv.CgroupV2)
	c := newContainerd(t)
	// containerd has no flags for its runtimes: the store is named by a script.
	c.program = filepath.Join(t.TempDir(), "hvctl-oci-vm")
	script := "#!/bin/sh\nexec " + filepath.Join(os.Getenv("HVCTL_BIN"), "hvctl-oci-vm") + " --store " + testenv.TestStore() + " \"$@\"\n"
	if err := os.WriteFile(c.program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range containerdFlows {
		if slices.Contains(flowsOfContainerdInVMs, f.name) {
			t.Run(f.name, func(t *testing.T) { f.flow(t, c.in(t)) })
		}
	}
	t.Logf("%d containerd flows in VMs", len(flowsOfContainerdInVMs))
}
