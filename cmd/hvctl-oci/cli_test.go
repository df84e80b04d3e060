package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
)

// TestAnswersWithoutContainers needs nothing of the host.
func TestAnswersWithoutContainers(t *testing.T) {
	root := t.TempDir()
	for _, c := range []struct {
		args    string
		code    int
		out     string // the beginning of standard output
		errOut  string // is in standard error
		without string // is not
	}{
		{"--version", 0, "runc version 1.3.0", "", ""},
		{"-v", 0, "runc version 1.3.0", "", ""},
		{"", 0, "usage: hvctl-oci", "", ""},
		{"--help", 0, "usage: hvctl-oci", "", ""},
		{"create --help", 0, "usage: hvctl-oci create [FLAGS] ID", "", ""},
		{"nope", 1, "", "no such command", ""},
		{"--nope", 1, "", "flag provided but not defined: -nope", ""},
		{"create --nope x", 1, "", "flag provided but not defined: -nope", ""},
		{"create", 1, "", "wants ID", ""},
		{"state", 1, "", "wants ID", ""},
		{"state nope", 1, "", "does not exist", ""},
		{"kill nope 9", 1, "", "does not exist", ""},
		{"start nope", 1, "", "does not exist", ""},
		{"delete nope", 1, "", "does not exist", ""},
		{"delete --force nope", 0, "", "", ""},
		{"create ../x", 1, "", "invalid container ID format", ""},
		{"kill x NOPE", 1, "", "unknown signal", ""},
		{"checkpoint --lazy-pages y", 1, "", "hvctl-oci-full", ""}, // is not beside the test's program
		{"restore --lsm-mount-context", 1, "", "flag needs an argument: -lsm-mount-context", ""},
		{"--log-format xml state x", 1, "", "neither text nor json", ""},
		{"--systemd-cgroup create x", 1, "", "hvctl-oci-full", ""}, // the same
		{"--systemd-cgroup state x", 1, "", "container does not exist", ""},
		{"update --memory 5x y", 1, "", "not a number", ""},
		{"list", 0, "ID ", "", ""},
		{"list --format json", 0, "[]", "", ""},
	} {
		t.Run(c.args, func(t *testing.T) {
			var out, errOut strings.Builder
			code := run(false, append([]string{"--root", filepath.Join(root, "state")}, strings.Fields(c.args)...), &out, &errOut)
			if code != c.code || !strings.HasPrefix(out.String(), c.out) || !strings.Contains(errOut.String(), c.errOut) {
				t.Errorf("exit code %d, output %q, error %q", code, out.String(), errOut.String())
			}
		})
	}
}

func TestFeaturesAndSpecAreValid(t *testing.T) {
	var out, errOut strings.Builder
	if code := run(false, []string{"features"}, &out, &errOut); code != 0 {
		t.Fatal(errOut.String())
	}
	var f features.Features
	if err := json.Unmarshal([]byte(out.String()), &f); err != nil || f.OCIVersionMax != specs.Version || len(f.Hooks) != 6 {
		t.Errorf("features: %+v, %v", f, err)
	}
	for _, args := range [][]string{{"spec"}, {"spec", "--rootless"}} {
		dir := t.TempDir()
		args = append(args, "--bundle", dir)
		if code := run(false, args, &out, &errOut); code != 0 {
			t.Fatal(errOut.String())
		}
		if _, _, err := container.Load(dir); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		if code := run(false, args, &out, &errOut); code != 1 || !strings.Contains(errOut.String(), "exists. Remove it first") {
			t.Errorf("a second %v: exit code %d, %s", args, code, errOut.String())
		}
	}
}

func TestRunGivesTheExitCode(t *testing.T) {
	c := newCLI(t)
	for _, k := range []struct {
		script string
		code   int
	}{{"exit 0", 0}, {"exit 7", 7}, {"kill -9 $$; exit 8", 8}} { // process 1 is not killed from inside
		c.config(func(s *specs.Spec) { s.Process.Args = []string{"sh", "-c", k.script} })
		if _, errOut, code := c.run("run", c.prefix); code != k.code {
			t.Errorf("%q: exit code %d, %s", k.script, code, errOut)
		}
	}
	c.nothingLeft()
}

func TestLifeByCommands(t *testing.T) {
	c := newCLI(t)
	pidFile, id := filepath.Join(t.TempDir(), "pid"), c.prefix
	if err := c.detached("create", "--pid-file", pidFile, "--bundle", c.bundle, id); err != nil {
		t.Fatal(err)
	}
	state := func() container.State {
		t.Helper()
		var st container.State
		if err := json.Unmarshal([]byte(c.must("state", id)), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	st := state()
	if b, err := os.ReadFile(pidFile); err != nil || string(b) != strconv.Itoa(st.PID) || st.Status != container.Created || st.Bundle != c.bundle || st.Owner != "root" {
		t.Errorf("state %+v, PID file %q, %v", st, b, err)
	}
	c.must("start", id)
	if st := state(); st.Status != container.Running {
		t.Errorf("state %+v", st)
	}
	var pids []int
	if err := json.Unmarshal([]byte(c.must("ps", "--format", "json", id)), &pids); err != nil || !slices.Equal(pids, []int{st.PID}) {
		t.Errorf("ps says %v, %v; want %d", pids, err, st.PID)
	}
	if out := c.must("ps", id); strings.Count(out, "\n") != 2 || !strings.Contains(out, "sleep 1000") {
		t.Errorf("ps says %q", out)
	}
	var list []container.State
	if err := json.Unmarshal([]byte(c.must("list", "-f", "json")), &list); err != nil || len(list) != 1 || list[0].ID != id {
		t.Errorf("list says %v, %v", list, err)
	}
	c.must("pause", id)
	if _, errOut, code := c.run("exec", id, "true"); code != 255 || !strings.Contains(errOut, "paused") {
		t.Errorf("exec while paused: %d, %s", code, errOut)
	}
	c.must("resume", id)
	c.must("update", "--pids-limit", "77", id)
	cmd := c.command("update", "--resources=-", id)
	cmd.Stdin = strings.NewReader(`{"cpu": {"shares": 500}}`)
	if _, errOut, code := c.finish(cmd); code != 0 {
		t.Errorf("update by standard input: %s", errOut)
	}
	var ev struct {
		Type string
		Data struct{ Pids struct{ Current, Limit int } }
	}
	if err := json.Unmarshal([]byte(c.must("events", "--stats", id)), &ev); err != nil || ev.Type != "stats" || ev.Data.Pids.Limit != 77 || ev.Data.Pids.Current != 1 {
		t.Errorf("events says %+v, %v", ev, err)
	}
	if _, errOut, code := c.run("delete", id); code != 1 || !strings.Contains(errOut, "--force") {
		t.Errorf("delete of a running one: %d, %s", code, errOut)
	}
	c.must("kill", id, "-9") // runc takes this
	for state().Status != container.Stopped {
	}
	if _, errOut, code := c.run("kill", id, "TERM"); code != 1 || !strings.Contains(errOut, "container not running") {
		t.Errorf("kill of a stopped one: %d, %s", code, errOut)
	}
	c.must("delete", id)
	c.nothingLeft()
}

func TestExecByCommand(t *testing.T) {
	c := newCLI(t)
	if err := c.detached("run", "-d", c.prefix); err != nil {
		t.Fatal(err)
	}
	process := filepath.Join(t.TempDir(), "process.json")
	if err := os.WriteFile(process, []byte(`{"args":["sh","-c","echo $X; exit 3"],"env":["PATH=/bin","X=file"],"cwd":"/","user":{"uid":0,"gid":0}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		args, out, errOut string
		code              int
	}{
		{"exec ID echo -n -e x", "x", "", 0},
		{"exec ID sh -c 'exit 5'", "", "", 5},
		{"exec --env X=1 -e Y=2 ID sh -c 'echo $X$Y'", "12\n", "", 0},
		{"exec -e PATH=/bin:/nope ID env", "PATH=/bin:/nope\nHOME=/\n", "", 0},
		{"exec -u 7:8 -g 9 ID id", "uid=7 gid=8 groups=9\n", "", 0},
		{"exec --cwd /proc ID sh -c pwd", "/proc\n", "", 0},
		{"exec -p PROCESS ID", "file\n", "", 3},
		{"exec ID nope", "", `exec: \"nope\": executable file not found in $PATH`, 255},
		{"exec -u root ID true", "", "not a numeric ID", 255},
		{"exec -u 4294967295 ID true", "", "not a numeric ID", 255},
		{"exec ID", "", "args", 255},
		{"exec --cap CAP_NOPE ID true", "", "CAP_NOPE", 255},
		{"exec --cgroup ../x ID true", "", "--cgroup", 255},
		{"exec --cgroup / ID true", "", "", 0},
		{"exec --preserve-fds 5 ID true", "", "descriptor", 255},
		{"exec -d ID true", "", "", 0},
	} {
		t.Run(k.args, func(t *testing.T) {
			c := *c
			c.t = t
			var args []string
			for i, part := range strings.Split(k.args, "'") { // quotes hold blanks together
				if i%2 == 1 {
					args = append(args, part)
					continue
				}
				for f := range strings.FieldsSeq(part) {
					switch f {
					case "ID":
						f = c.prefix
					case "PROCESS":
						f = process
					}
					args = append(args, f)
				}
			}
			out, errOut, code := c.run(args...)
			if out != k.out || code != k.code || !strings.Contains(errOut, k.errOut) {
				t.Errorf("output %q, error %q, exit code %d", out, errOut, code)
			}
		})
	}
}

func TestLogIsWhatEnginesRead(t *testing.T) {
	c := newCLI(t)
	c.config(func(s *specs.Spec) { s.Process.Args = []string{"nope"} })
	log := filepath.Join(t.TempDir(), "log.json")
	_, errOut, code := c.run("--log", log, "--log-format", "json", "create", c.prefix)
	if code != 1 || !strings.Contains(errOut, `exec: "nope": executable file not found in $PATH`) {
		t.Errorf("exit code %d, %s", code, errOut)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	var last struct{ Level, Msg, Time string }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Level != "error" || !strings.HasPrefix(last.Msg, `exec: "nope"`) || last.Time == "" {
		t.Errorf("the last line is %s, %v", lines[len(lines)-1], err)
	}
}

func TestConfigMistakesNameTheField(t *testing.T) {
	c := newCLI(t)
	c.config(func(s *specs.Spec) {
		s.Process.Cwd, s.Hostname = "etc", strings.Repeat("x", 65)
		s.Linux.Sysctl = map[string]string{"kernel.panic": "1"}
	})
	_, errOut, code := c.run("create", c.prefix)
	for _, want := range []string{"process.cwd: ", "hostname: ", "linux.sysctl.kernel.panic: "} {
		if code != 1 || !strings.Contains(errOut, want) {
			t.Errorf("exit code %d, %s; want %q", code, errOut, want)
		}
	}
	c.config(func(s *specs.Spec) {
		one := int64(1)
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &one}}
	})
	if _, errOut, code := c.run("create", c.prefix); code != 1 || !strings.Contains(errOut, "linux.resources.memory: ") {
		t.Errorf("a byte of memory: exit code %d, %s", code, errOut)
	}
	// Pipes that nobody writes to hold nobody up.
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	c.config(func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: pipe})
	})
	if _, errOut, code := c.run("create", c.prefix); code != 1 || !strings.Contains(errOut, "not a namespace") {
		t.Errorf("a pipe as a namespace: exit code %d, %s", code, errOut)
	}
	file := filepath.Join(c.bundle, "config.json")
	if err := errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, errOut, code := c.run("create", c.prefix); code != 1 || !strings.Contains(errOut, "no regular file") {
		t.Errorf("a pipe as config.json: exit code %d, %s", code, errOut)
	}
	c.nothingLeft()
}
