package ociclients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/critest"
	"github.com/hvctl/hvctl/internal/testenv"
)

// containerd is a daemon of our own, and ctr to talk to it.
type containerd struct {
	t       *testing.T
	ctr     []string
	program string // the runtime
}

func newContainerd(t *testing.T) *containerd {
	t.Helper()
	return startContainerd(t, require(t, testenv.Containerd), "test", "version = 2\n", "io.containerd.grpc.v1.cri")
}

// startContainerd starts a daemon that keeps everything below dir, with this
// configuration and without these plugins, and imports the image.
func startContainerd(t *testing.T, dir, namespace, text string, without ...string) *containerd {
	t.Helper()
	conf := filepath.Join(dir, "config.toml")
	sock := filepath.Join(dir, "c.sock")
	if err := os.WriteFile(conf, []byte(critest.Config(text, dir, without...)), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon := exec.Command("containerd", "--config", conf)
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	c := &containerd{t, []string{"ctr", "--address", sock, "--namespace", namespace}, runtimeProgram()}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(unix.SIGTERM)
		if err := daemon.Wait(); err != nil {
			t.Logf("containerd: %v", err)
		}
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("containerd's log ends with:\n%s", b[max(0, len(b)-3000):])
		}
		for m := range strings.FieldsSeq(run(t, nil, "findmnt", "-rno", "TARGET").out) {
			if strings.HasPrefix(m, dir+"/") {
				_ = unix.Unmount(m, unix.MNT_DETACH)
			}
		}
	})
	eventually(t, "containerd answers", func() bool { return run(t, nil, c.with("version")...).code == 0 })
	c.ok("images", "import", critest.Archive(t, dir))
	return c
}

func (c *containerd) in(t *testing.T) *containerd { return &containerd{t, c.ctr, c.program} }

func (c *containerd) with(args ...string) []string {
	return append(slices.Clip(c.ctr), args...)
}

func (c *containerd) do(args ...string) result {
	c.t.Helper()
	return run(c.t, nil, c.with(args...)...)
}

func (c *containerd) ok(args ...string) string {
	c.t.Helper()
	r := c.do(args...)
	if r.code != 0 {
		c.t.Fatal(r)
	}
	return strings.TrimSpace(r.out)
}

// start runs the image detached, with our runtime.
func (c *containerd) start(id string, args ...string) {
	c.t.Helper()
	c.ok(append([]string{"run", "-d", "--snapshotter", "native", "--runc-binary", c.program, image, id}, args...)...)
}

// status is what ctr says of a task.
func (c *containerd) status(id string) string {
	for line := range strings.Lines(c.ok("tasks", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[2]
		}
	}
	return "none"
}

// containerdFlows are what people do with ctr.
var containerdFlows = []struct {
	name string
	flow func(t *testing.T, c *containerd)
}{
	{"run", func(t *testing.T, c *containerd) {
		dir := t.TempDir()
		r := c.do("run", "--rm", "--snapshotter", "native", "--mount", "type=bind,src="+dir+",dst=/data,options=rbind:rw", "--env", "A=1", "--runc-binary", c.program, image, "r",
			"sh", "-c", "echo kept >/data/file; echo $A; echo err >&2; exit 7").exits(t, 7)
		if r.out != "1\n" || !strings.Contains(r.err, "err\n") {
			t.Error(r)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "kept\n" {
			t.Errorf("%q, %v", b, err)
		}
		if r := c.do("run", "--rm", "--snapshotter", "native", "--runc-binary", c.program, image, "n", "nosuchprogram"); r.code == 0 || !strings.Contains(r.err, "executable file not found in $PATH") {
			t.Error(r)
		}
		c.do("containers", "rm", "n")
	}},
	// The longest life: in a VM each container takes its time to boot.
	{"exec, pause, kill, rm", func(t *testing.T, c *containerd) {
		c.start("k", "sh", "-c", "trap 'exit 4' TERM; touch /tmp/ready; while :; do sleep 0.1; done")
		c.do("tasks", "exec", "--exec-id", "x1", "k", "echo", "inside").is(t, "inside")
		c.do("tasks", "exec", "--exec-id", "x2", "k", "sh", "-c", "exit 9").exits(t, 9)
		c.do("tasks", "exec", "--exec-id", "x3", "--cwd", "/www", "--user", "1000", "k", "sh", "-c", "pwd; id -u").is(t, "/www\n1000")
		if r := c.do("tasks", "exec", "--exec-id", "x4", "k", "nosuchprogram"); r.code == 0 || !strings.Contains(r.err, "executable file not found") {
			t.Error(r)
		}
		c.ok("tasks", "pause", "k")
		if s := c.status("k"); s != "PAUSED" {
			t.Error(s)
		}
		c.ok("tasks", "resume", "k")
		if s := c.status("k"); s != "RUNNING" {
			t.Error(s)
		}
		eventually(t, "the trap is set", func() bool { return c.do("tasks", "exec", "--exec-id", "s", "k", "stat", "/tmp/ready").code == 0 })
		c.ok("tasks", "kill", "k") // TERM
		eventually(t, "it has ended", func() bool { return c.status("k") == "STOPPED" })
		c.ended("k", 4)
		c.ok("containers", "rm", "k")
		c.start("k", "sleep", "1000")
		c.remove("k")
		if out := c.ok("containers", "ls", "-q"); out != "" {
			t.Error(out)
		}
	}},
	{"ps", func(t *testing.T, c *containerd) {
		c.start("p", "sh", "-c", "sleep 999 & sleep 998 & wait")
		eventually(t, "three processes are listed", func() bool { return len(strings.Split(c.ok("tasks", "ps", "p"), "\n")) == 4 })
		c.remove("p")
	}},
	{"metrics", func(t *testing.T, c *containerd) {
		c.ok("run", "-d", "--snapshotter", "native", "--memory-limit", "67108864", "--runc-binary", c.program, image, "m", "sleep", "1000")
		out := c.ok("tasks", "metrics", "m")
		for _, want := range []string{"memory.usage_limit", "67108864", "pids.current"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %s in:\n%s", want, out)
			}
		}
		c.remove("m")
	}},
	{"terminal", func(t *testing.T, c *containerd) {
		// ctr itself wants a terminal for -t: script(1) gives it one.
		args := c.with("run", "--rm", "-t", "--snapshotter", "native", "--runc-binary", c.program, image, "t", "tty")
		r := run(t, nil, "script", "-qec", strings.Join(args, " "), "/dev/null").exits(t, 0)
		if !strings.Contains(r.out, "/dev/pts/0") {
			t.Error(r)
		}
	}},
}

// ended removes a task that has ended, and fails the test unless that was with
// the exit status.
func (c *containerd) ended(id string, status int) {
	c.t.Helper()
	if r := c.do("tasks", "rm", id); r.code != 0 || !strings.Contains(r.err, fmt.Sprintf("exit code %d", status)) {
		c.t.Errorf("want exit code %d; %v", status, r)
	}
}

// remove ends a task and removes its container.
func (c *containerd) remove(id string) {
	c.t.Helper()
	c.ok("tasks", "kill", "-s", "SIGKILL", id)
	eventually(c.t, id+" has ended", func() bool { return c.status(id) == "STOPPED" })
	c.ended(id, 137)
	c.ok("containers", "rm", id)
}

// TestContainerd goes through what people do with ctr, with our runtime.
func TestContainerd(t *testing.T) {
	c := newContainerd(t)
	for _, f := range containerdFlows {
		t.Run(f.name, func(t *testing.T) {
			began := time.Now()
			f.flow(t, c.in(t))
			t.Logf("took %v", time.Since(began).Round(time.Millisecond))
		})
	}
	t.Logf("%d containerd flows", len(containerdFlows))
}
