package ociclients

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/critest"
	"github.com/hvctl/hvctl/internal/testenv"
)

// podman is an engine with storage of its own.
type podman struct {
	t      *testing.T
	global []string
	env    []string
}

func newPodman(t *testing.T) *podman {
	t.Helper()
	return podmanWith(t, runtimeProgram())
}

// podmanWith is an engine that drives the runtime called program.
func podmanWith(t *testing.T, program string, flags ...string) *podman {
	t.Helper()
	dir := require(t, testenv.Podman)
	conf := filepath.Join(dir, "containers.conf")
	// As users have it, but without the journal and systemd of a full system.
	text := strings.Replace(example(t, "podman/containers.conf", program), "[engine]\n",
		"[engine]\nevents_logger = \"file\"\ncgroup_manager = \"cgroupfs\"\n", 1) +
		fmt.Sprintf("\n[containers]\nlog_driver = \"k8s-file\"\n[network]\nnetwork_config_dir = %q\n", dir+"/networks")
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := &podman{t: t, env: []string{"CONTAINERS_CONF=" + conf}, global: []string{
		"podman",
		"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"),
		"--storage-driver", "vfs",
	}}
	for _, f := range flags {
		p.global = append(p.global, "--runtime-flag", f)
	}
	if got := p.ok("info", "--format", "{{.Host.OCIRuntime.Path}}"); got != program {
		t.Fatalf("podman's runtime is %q, want %q", got, program)
	}
	p.ok("load", "-q", "-i", critest.Archive(t, dir))
	t.Cleanup(func() {
		if t.Failed() { // else there is nothing: its mounts would keep the folder from being removed
			p.do("pod", "rm", "-f", "-a", "-t", "0")
			p.do("rm", "-f", "-a", "-t", "0")
		}
	})
	return p
}

// in is the engine as seen by a subtest.
func (p *podman) in(t *testing.T) *podman { return &podman{t, p.global, p.env} }

func (p *podman) do(args ...string) result {
	p.t.Helper()
	return run(p.t, p.env, append(slices.Clip(p.global), args...)...)
}

// ok is do that fails the test unless the exit status is 0; it returns the
// trimmed output.
func (p *podman) ok(args ...string) string {
	p.t.Helper()
	r := p.do(args...)
	if r.code != 0 {
		p.t.Fatal(r)
	}
	return strings.TrimSpace(r.out)
}

// podmanFlows are what people do with podman.
var podmanFlows = []struct {
	name string
	flow func(t *testing.T, p *podman)
}{
	{"run", func(t *testing.T, p *podman) {
		r := p.do("run", "--rm", "--network", "none", "--hostname", "box", "--user", "1000:1000", "--workdir", "/tmp", "-e", "A=b c", image, "sh", "-c",
			"hostname; id -u; id -g; pwd; echo $A; echo to stderr >&2; exit 7").exits(t, 7)
		if r.out != "box\n1000\n1000\n/tmp\nb c\n" || !strings.Contains(r.err, "to stderr") {
			t.Error(r)
		}
		p.do("run", "--rm", "--network", "none", image, "nosuchprogram").exits(t, 127)
	}},
	{"run of what is no program", func(t *testing.T, p *podman) {
		p.do("run", "--rm", "--network", "none", image, "/etc/passwd").exits(t, 126)
	}},
	// The longest life: in a VM each container takes its time to boot.
	{"exec, health check, pause, kill", func(t *testing.T, p *podman) {
		p.ok("run", "-d", "--name", "e", "--network", "none", "--health-cmd", "test -e /tmp/healthy", "--health-interval", "disable", "--health-retries", "1", image, "sleep", "1000")
		p.do("exec", "e", "echo", "inside").is(t, "inside")
		p.do("exec", "e", "sh", "-c", "exit 9").exits(t, 9)
		p.do("exec", "--user", "user", "--env", "X=1", "-w", "/www", "e", "sh", "-c", "id -u; echo $X; ls").is(t, "1000\n1\nindex.html")
		p.do("exec", "e", "nosuchprogram").exits(t, 127)
		p.do("exec", "e", "/etc/passwd").exits(t, 126)
		p.ok("exec", "-d", "e", "touch", "/tmp/detached")
		eventually(t, "the detached command has run", func() bool { return p.do("exec", "e", "stat", "/tmp/detached").code == 0 })

		p.do("healthcheck", "run", "e").exits(t, 1)
		p.ok("exec", "e", "touch", "/tmp/healthy")
		p.do("healthcheck", "run", "e").exits(t, 0)
		p.do("inspect", "--format", "{{.State.Health.Status}}", "e").is(t, "healthy")

		p.ok("pause", "e")
		p.do("inspect", "--format", "{{.State.Status}}", "e").is(t, "paused")
		p.do("exec", "e", "true").exits(t, 255)
		p.ok("unpause", "e")
		p.do("exec", "e", "echo", "again").is(t, "again")

		if r := p.do("rm", "e"); r.code == 0 {
			t.Errorf("removed while it runs: %v", r)
		}
		p.ok("kill", "e")
		p.do("wait", "e").is(t, "137")
		p.ok("rm", "e")
		p.do("ps", "-aq").is(t, "")
	}},
	{"logs", func(t *testing.T, p *podman) {
		p.do("run", "--name", "l", "--network", "none", image, "sh", "-c", "echo one; echo two").exits(t, 0)
		p.do("logs", "l").is(t, "one\ntwo")
		p.do("logs", "--tail", "1", "l").is(t, "two")
		p.ok("rm", "l")
	}},
	{"published port, stop, start", func(t *testing.T, p *podman) {
		p.ok("run", "-d", "--name", "s", "-p", "127.0.0.1:18080:80", image, "sh", "-c", "trap 'exit 5' TERM; httpd -p 80 -h /www; while :; do sleep 0.1; done")
		eventually(t, "the page is served", func() bool { return served("http://127.0.0.1:18080/") })
		p.ok("stop", "s")
		p.do("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "s").is(t, "exited 5")
		p.ok("start", "s")
		eventually(t, "the page is served again", func() bool { return served("http://127.0.0.1:18080/") })
		p.do("inspect", "--format", "{{.State.Status}}", "s").is(t, "running")
		p.ok("rm", "-f", "-t", "0", "s")
	}},
	{"terminal", func(t *testing.T, p *podman) {
		p.ok("run", "-d", "-t", "--name", "tt", "--network", "none", image, "sh", "-c", "tty; exec sleep 1000")
		eventually(t, "it has the container's first terminal", func() bool { return strings.TrimSpace(p.ok("logs", "tt")) == "/dev/pts/0" })
		r := p.do("exec", "-t", "tt", "sh", "-c", "tty; exit 3").exits(t, 3)
		if !strings.Contains(r.out, "/dev/pts/") {
			t.Error(r)
		}
		p.ok("rm", "-f", "-t", "0", "tt")
	}},
	{"volumes", func(t *testing.T, p *podman) {
		dir := t.TempDir()
		p.ok("run", "--rm", "--network", "none", "-v", dir+":/data", image, "sh", "-c", "echo kept >/data/file")
		if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "kept\n" {
			t.Errorf("%q, %v", b, err)
		}
		p.do("run", "--rm", "--network", "none", "-v", dir+":/data:ro", image, "sh", "-c", "cat /data/file; touch /data/new 2>&1 | grep -c Read-only").is(t, "kept\n1")
		p.ok("volume", "create", "v")
		p.ok("run", "--rm", "--network", "none", "-v", "v:/data", image, "touch", "/data/x")
		p.do("run", "--rm", "--network", "none", "-v", "v:/data", "--tmpfs", "/scratch:size=1m", image, "sh", "-c", "ls /data; grep -c ' /scratch tmpfs' /proc/mounts").is(t, "x\n1")
		p.ok("volume", "rm", "v")
	}},
	{"resource limits", func(t *testing.T, p *podman) {
		p.do("run", "--rm", "--network", "none", "-m", "64m", "--memory-reservation", "32m", "--cpus", "0.5", "--pids-limit", "20", "--cpuset-cpus", "0", image,
			"cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.low", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/cpuset.cpus").
			is(t, "67108864\n33554432\n50000 100000\n20\n0")
		p.do("run", "--rm", "--network", "none", "--ulimit", "nofile=100:200", image, "sh", "-c", "ulimit -Sn; ulimit -Hn").is(t, "100\n200")
		p.do("run", "--name", "oom", "--network", "none", "-m", "16m", image, "dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=60").exits(t, 137)
		p.ok("rm", "oom")
	}},
	{"update of limits", func(t *testing.T, p *podman) {
		p.ok("run", "-d", "--name", "u", "--network", "none", "-m", "64m", image, "sleep", "1000")
		p.ok("update", "--memory", "32m", "--cpus", "0.25", "u")
		p.do("exec", "u", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max").is(t, "33554432\n25000 100000")
		p.ok("rm", "-f", "-t", "0", "u")
	}},
	{"user namespace", func(t *testing.T, p *podman) {
		p.do("run", "--rm", "--network", "none", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", image, "sh", "-c",
			"id -u; cat /proc/self/uid_map | { read a b c; echo $a $b $c; }; touch /made && stat -c %u /made").is(t, "0\n0 100000 65536\n0")
	}},
	{"pod", func(t *testing.T, p *podman) {
		p.ok("pod", "create", "--name", "pod", "--infra-image", image, "--infra-command", "sleep 1000")
		p.ok("run", "-d", "--pod", "pod", "--name", "server", image, "httpd", "-f", "-p", "8080", "-h", "/www")
		// A listener on port 8080 (1F90).
		eventually(t, "one container of the pod sees the other's listener", func() bool {
			return p.do("run", "--rm", "--pod", "pod", image, "grep", ":1F90 .* 0A ", "/proc/net/tcp", "/proc/net/tcp6").code == 0
		})
		p.ok("pod", "stop", "-t", "0", "pod")
		p.ok("pod", "rm", "pod")
		p.do("ps", "-aq").is(t, "")
	}},
	{"top and stats", func(t *testing.T, p *podman) {
		p.ok("run", "-d", "--name", "t", "--network", "none", image, "sleep", "1000")
		if out := p.ok("top", "t", "pid", "args"); !strings.Contains(out, "sleep 1000") {
			t.Error(out)
		}
		if out := p.ok("stats", "--no-stream", "--format", "{{.PIDs}}", "t"); out != "1" {
			t.Error(out)
		}
		p.ok("rm", "-f", "-t", "0", "t")
	}},
	{"read-only root and capabilities", func(t *testing.T, p *podman) {
		p.do("run", "--rm", "--network", "none", "--read-only", "--cap-drop", "all", "--cap-add", "net_raw", "--security-opt", "no-new-privileges", image, "sh", "-c",
			"touch /x 2>&1 | grep -c Read-only; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status; grep Seccomp: /proc/self/status").
			is(t, "1\nCapEff:\t0000000000002000\nNoNewPrivs:\t1\nSeccomp:\t2")
	}},
}

// served says whether our page is there. (Debian's static busybox wget crashes
// on looking up a host, so that this is done here.)
func served(url string) bool {
	c := http.Client{Timeout: 5 * time.Second}
	r, err := c.Get(url)
	if err != nil {
		return false
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, 1024))
	return err == nil && string(b) == "served\n"
}

// TestPodman goes through what people do with podman, with our runtime.
func TestPodman(t *testing.T) {
	p := newPodman(t)
	for _, f := range podmanFlows {
		t.Run(f.name, func(t *testing.T) {
			began := time.Now()
			f.flow(t, p.in(t))
			t.Logf("took %v", time.Since(began).Round(time.Millisecond))
			if t.Failed() {
				p.do("rm", "-f", "-a", "-t", "0") // the next one starts clean
			}
		})
	}
	t.Logf("%d podman flows", len(podmanFlows))
}
