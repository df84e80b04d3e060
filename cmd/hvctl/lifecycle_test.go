package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRunGivesOutputAndExitCode(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name     string
		args     []string
		stdin    string
		code     int
		out, err string
	}{
		{"image's command", []string{"run", "--rm", "host"}, "", 0, "from the image\n", ""},
		{"streams apart", []string{"run", "--rm", "host", "sh", "-c", "echo o; echo e >&2; exit 7"}, "", 7, "o\n", "e\n"},
		{"signal", []string{"run", "--rm", "host", "sh", "-c", "kill -9 $$"}, "", 137, "", ""},
		{"input", []string{"run", "--rm", "-i", "host", "cat"}, "abc", 0, "abc", ""},
		{"no input without -i", []string{"run", "--rm", "host", "cat"}, "abc", 0, "", ""},
		{"environment", []string{"run", "--rm", "-e", "A=b c", "host", "sh", "-c", "echo $A $IMG $TERM"}, "", 0, "b c 1\n", ""},
		{"directory", []string{"run", "--rm", "-w", "/usr", "host", "pwd"}, "", 0, "/usr\n", ""},
		{"entrypoint", []string{"run", "--rm", "--entrypoint", "echo", "host", "-n", "x"}, "", 0, "x", ""},
		{"flags of the command are its own", []string{"run", "--rm", "host", "echo", "--rm", "-d"}, "", 0, "--rm -d\n", ""},
		{"not found", []string{"run", "--rm", "host", "no-such-program"}, "", 127, "", "no-such-program"},
		{"not executable", []string{"run", "--rm", "host", "/etc/passwd"}, "", 126, "", "permission denied"},
		{"start fails", []string{"run", "--rm", "-e", "FAKE_FAIL_START=no luck", "host"}, "", 125, "", "no luck"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			call := w.hv(c.args...).stdin(c.stdin)
			if code := call.run(); code != c.code {
				t.Errorf("exit code %d, want %d; stderr %q", code, c.code, call.err.String())
			}
			if call.out.String() != c.out || !strings.Contains(call.err.String(), c.err) {
				t.Errorf("stdout %q, stderr %q; want %q, %q", call.out.String(), call.err.String(), c.out, c.err)
			}
			if list := w.must("ps", "-aq"); list != "" {
				t.Errorf("left behind: %s", list)
			}
		})
	}
}

// A megabyte each way, through the windows and buffers.
func TestRunCarriesManyBytes(t *testing.T) {
	w := newWorld(t)
	in := strings.Repeat("0123456789abcdef\n", 1<<16)
	c := w.hv("run", "--rm", "-i", "host", "sh", "-c", "cat; echo end >&2").stdin(in)
	if code := c.run(); code != 0 || c.err.String() != "end\n" {
		t.Fatalf("exit code %d, stderr %q", code, c.err.String())
	}
	if c.out.String() != in {
		t.Errorf("%d bytes came back of %d, or others", c.out.Len(), len(in))
	}
}

func TestDetachedLife(t *testing.T) {
	w := newWorld(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(w.must("run", "-d", "--name", "web", "-l", "a=b", "host", "sh", "-c", "echo one; read x < "+fifo+"; echo $x; exit 3"))
	if len(id) != 64 {
		t.Fatalf("ID %q", id)
	}
	if got := w.must("ps"); !strings.Contains(got, "web") || !strings.Contains(got, "Up ") || !strings.Contains(got, id[:12]) {
		t.Errorf("ps: %s", got)
	}
	if got := w.must("ps", "-q", "--no-trunc", "--filter", "label=a=b"); got != id+"\n" {
		t.Errorf("filtered: %q", got)
	}
	if got := w.must("ps", "-q", "--filter", "label=a=c"); got != "" {
		t.Errorf("filtered out: %q", got)
	}
	follow := w.hv("logs", "-f", "web").start()
	wait := w.hv("wait", id[:6]).start()
	w.eventually("log", func() bool { return w.must("logs", "web") == "one\n" })
	if err := os.WriteFile(fifo, []byte("two\n"), 0); err != nil {
		t.Fatal(err)
	}
	if code := wait.wait(); code != 0 || wait.out.String() != "3\n" {
		t.Errorf("wait: %d, %q, %q", code, wait.out.String(), wait.err.String())
	}
	if code := follow.wait(); code != 0 || follow.out.String() != "one\ntwo\n" {
		t.Errorf("logs -f: %d, %q", code, follow.out.String())
	}
	if got := w.must("ps"); strings.Contains(got, "web") {
		t.Errorf("ps lists an ended one: %s", got)
	}
	if got := w.must("ps", "-a"); !strings.Contains(got, "Exited (3)") {
		t.Errorf("ps -a: %s", got)
	}
	if got := w.must("wait", "web"); got != "3\n" {
		t.Errorf("wait after the end: %q", got)
	}
	// One that is not there keeps nobody from hearing of the others.
	for _, args := range [][]string{{"wait", "nosuch", "web"}, {"inspect", "-f", "{{json .State.Exit.Code}}", "nosuch", "web"}} {
		c := w.hv(args...)
		if code := c.run(); code != 125 || c.out.String() != "3\n" || !strings.Contains(c.err.String(), `no such instance: "nosuch"`) {
			t.Errorf("hvctl %q: %d, %q, %q", args, code, c.out.String(), c.err.String())
		}
	}
	w.fails(125, []string{"web", "hvctl rm web", "--replace"}, "run", "--name", "web", "host")
	if got := w.must("run", "--name", "web", "--replace", "host"); got != "from the image\n" {
		t.Errorf("replaced: %q", got)
	}
	if got := w.must("rm", "web"); got != "web\n" {
		t.Errorf("rm: %q", got)
	}
	w.fails(125, []string{`no such instance: "web"`}, "inspect", "web")
	w.fails(125, []string{"status=going", "created running paused exited dead"}, "ps", "-f", "status=going")
}

func TestCreateThenStart(t *testing.T) {
	w := newWorld(t)
	w.must("create", "--name", "web", "-i", "host", "cat")
	if got := w.status("web"); got != "created" {
		t.Errorf("status %s", got)
	}
	w.fails(125, []string{"web", "not running"}, "exec", "web", "true")
	w.fails(125, []string{"web", "created"}, "run", "--name", "web", "host")
	wait := w.hv("wait", "web").start() // of what does not run yet
	c := w.hv("start", "-ai", "web").stdin("hello")
	if code := c.run(); code != 0 || c.out.String() != "hello" {
		t.Errorf("start -ai: %d, %q, %q", code, c.out.String(), c.err.String())
	}
	if code := wait.wait(); code != 0 || wait.out.String() != "0\n" {
		t.Errorf("wait: %d %q %q", code, wait.out.String(), wait.err.String())
	}
	w.fails(125, []string{"web is exited", "only a created"}, "start", "web")
	w.must("create", "--name", "bad", "host", "no-such-program")
	w.fails(127, []string{"bad", "no-such-program"}, "start", "bad")
}

func TestExec(t *testing.T) {
	w := newWorld(t)
	w.must("run", "-d", "--name", "web", "-e", "A=1", "-w", "/usr", "host", "sleep", "1000")
	c := w.hv("exec", "-i", "-e", "B=2", "web", "sh", "-c", "cat; echo $A$B >&2; pwd; exit 5").stdin("in")
	if code := c.run(); code != 5 || c.out.String() != "in/usr\n" || c.err.String() != "12\n" {
		t.Errorf("exec: %d, %q, %q", code, c.out.String(), c.err.String())
	}
	w.fails(127, []string{"nope"}, "exec", "web", "nope")
	w.fails(126, []string{"permission denied"}, "exec", "web", "/etc/passwd")
	w.fails(125, []string{"no such instance"}, "exec", "other", "true")
	w.fails(125, []string{"want an instance and a command"}, "exec", "web")
	mark := filepath.Join(t.TempDir(), "mark")
	w.must("exec", "-d", "web", "touch", mark)
	w.eventually("detached exec", func() bool { _, err := os.Stat(mark); return err == nil })
	// An exec that still runs does not keep the instance alive.
	held := w.hv("exec", "web", "sleep", "1000").start()
	w.eventually("session", func() bool { return strings.Contains(w.must("inspect", "web"), `"execs"`) })
	w.must("kill", "web")
	if code := held.wait(); code != 137 {
		t.Errorf("exec of an ended instance: %d, %q", code, held.err.String())
	}
	w.eventually("exit", func() bool { return w.status("web") == "exited" })
	w.fails(125, []string{"web", "not running"}, "exec", "web", "true")
}

func TestStopLadder(t *testing.T) {
	const sleeper = "while :; do sleep 0.05; done"
	for _, c := range []struct {
		name   string
		flags  []string // of run
		script string
		stop   []string
		code   string
	}{
		{"signal", nil, `trap "exit 4" TERM; ` + sleeper, nil, "4"},
		{"own signal", []string{"--stop-signal", "USR1"}, `trap "exit 5" USR1; ` + sleeper, nil, "5"},
		{"signal of the call", nil, `trap "exit 6" INT; ` + sleeper, []string{"-s", "INT"}, "6"},
		{"gentlest way", nil, `trap "" TERM; trap "exit 7" USR2; ` + sleeper, []string{"-t", "1"}, "7"},
		{"end", []string{"-e", "FAKE_IGNORE_SHUTDOWN=1"}, `trap "" TERM USR2; ` + sleeper, []string{"-t", "1"}, "137"},
		{"at once", nil, `trap "" TERM USR2; ` + sleeper, []string{"-t", "0"}, "137"},
		{"answers nothing", []string{"-e", "FAKE_IGNORE_SIGNALS=1"}, sleeper, []string{"-t", "1"}, "137"},
		{"paused", []string{"-e", "PAUSE=1"}, `trap "exit 8" TERM; ` + sleeper, nil, "8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			ready := filepath.Join(t.TempDir(), "ready")
			args := append([]string{"run", "-d", "--name", "web"}, c.flags...)
			w.must(append(args, "host", "sh", "-c", strings.Replace(c.script, "while", "touch "+ready+"; while", 1))...)
			w.eventually("traps set", func() bool { _, err := os.Stat(ready); return err == nil })
			if c.name == "paused" {
				w.must("pause", "web")
			}
			if got := w.must(append([]string{"stop", "web"}, c.stop...)...); got != "web\n" {
				t.Errorf("stop printed %q", got)
			}
			if got := strings.TrimSpace(w.must("inspect", "-f", "{{.State.Status}} {{.State.Exit.Code}}", "web")); got != "exited "+c.code {
				t.Errorf("state %s, want exit code %s", got, c.code)
			}
			if got := w.must("stop", "web"); got != "web\n" {
				t.Errorf("stopping twice: %q", got)
			}
		})
	}
}

func TestKillSignalPauseResume(t *testing.T) {
	w := newWorld(t)
	w.must("run", "-d", "--name", "web", "host", "sh", "-c", `trap "echo usr1" USR1; echo up; while :; do sleep 0.05; done`)
	w.eventually("up", func() bool { return w.must("logs", "web") == "up\n" })
	w.must("kill", "-s", "usr1", "web")
	w.eventually("signal", func() bool { return w.must("logs", "web") == "up\nusr1\n" })
	w.must("pause", "web")
	if got := w.must("ps"); !strings.Contains(got, "(paused)") {
		t.Errorf("ps: %s", got)
	}
	w.fails(125, []string{"web", "paused", "hvctl resume web"}, "exec", "web", "true")
	w.must("kill", "web", "-s", "USR1") // kept until it goes on
	w.must("pause", "web")              // nothing to do
	w.must("unpause", "web")
	w.eventually("signal after resume", func() bool { return w.must("logs", "web") == "up\nusr1\nusr1\n" })
	w.fails(125, []string{`signal "nope"`}, "kill", "-s", "nope", "web")
	w.must("kill", "web")
	w.must("wait", "web")
	w.fails(125, []string{"web", "not running"}, "kill", "web")
	w.fails(125, []string{"web", "not running"}, "pause", "web")
}

func TestRmRefusesTheLivingUnlessForced(t *testing.T) {
	w := newWorld(t)
	w.must("run", "-d", "--name", "a", "host", "sleep", "1000")
	w.must("run", "-d", "--name", "b", "host", "sleep", "1000")
	w.must("run", "--name", "c", "host")
	w.fails(125, []string{"a: is running", "hvctl stop a"}, "rm", "a")
	w.must("rm", "-a") // c only
	if got := w.must("ps", "-a"); strings.Contains(got, " c ") || !strings.Contains(got, " a ") {
		t.Errorf("after rm -a: %s", got)
	}
	pid, _ := strconv.Atoi(w.ownerPID("a"))
	w.must("rm", "-f", "a")
	w.eventually("owner gone", func() bool { return !alive(pid) })
	// An owner that does not answer is killed.
	pid, _ = strconv.Atoi(w.ownerPID("b"))
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.must("rm", "-f", "b", "no-such-one")
	w.eventually("owner gone", func() bool { return !alive(pid) })
	if got := w.must("ps", "-aq"); got != "" {
		t.Errorf("left: %s", got)
	}
}

// alive tells whether pid runs; a zombie does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// kill -9 of the owner at every step never blocks the name.
func TestOwnerKilledAtEveryStep(t *testing.T) {
	for _, step := range []string{"new", "start", "started", "close"} {
		for _, mode := range [][]string{{"run"}, {"run", "--rm"}, {"run", "-d"}} {
			t.Run(step+" "+strings.Join(mode, " "), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				c := w.hv(append(mode, "--name", "web", "-e", "FAKE_DIE_AT="+step, "host", "echo", "x")...)
				code := c.run()
				if detached := mode[len(mode)-1] == "-d" && step == "close"; !detached && code == 0 {
					t.Errorf("exit code 0 from a killed owner; stderr %q", c.err.String())
				}
				if mode[len(mode)-1] == "-d" { // run returns while the process may still run
					w.eventually("owner gone", func() bool { return w.must("ps", "-q") == "" })
				}
				if got := w.must("run", "--name", "web", "host"); got != "from the image\n" {
					t.Errorf("the same name again: %q", got)
				}
				ents, err := os.ReadDir(w.root)
				if err != nil {
					t.Fatal(err)
				}
				dirs := 0
				for _, e := range ents {
					if e.IsDir() && e.Name() != ".names" && e.Name() != ".events" {
						dirs++
					}
				}
				if dirs != 1 {
					t.Errorf("left behind: %v", ents)
				}
			})
		}
	}
}

func TestOwnerKilledWhileRunning(t *testing.T) {
	w := newWorld(t)
	w.must("run", "-d", "--name", "web", "host", "sh", "-c", "echo $$; exec sleep 1000")
	w.eventually("log", func() bool { return w.must("logs", "web") != "" })
	child, _ := strconv.Atoi(strings.TrimSpace(w.must("logs", "web")))
	defer func() { _ = unix.Kill(child, unix.SIGKILL) }()
	pid, _ := strconv.Atoi(w.ownerPID("web"))
	wait := w.hv("wait", "web").start()
	follow := w.hv("logs", "-f", "web").start()
	w.eventually("waiter", func() bool { return conns(pid) > 0 })
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := wait.wait(); code != 0 || wait.out.String() != "137\n" {
		t.Errorf("wait: %d, %q, %q", code, wait.out.String(), wait.err.String())
	}
	if code := follow.wait(); code != 0 {
		t.Errorf("logs -f: %d, %q", code, follow.err.String())
	}
	if got := w.status("web"); got != "dead" {
		t.Errorf("status %s", got)
	}
	w.fails(125, []string{"web", "not running"}, "exec", "web", "true")
	w.must("stop", "web")
	if got := w.must("run", "--rm", "--name", "web", "host"); got != "from the image\n" {
		t.Errorf("the same name again: %q", got)
	}
}

// conns is how many sockets a process has open beside the one it listens on.
func conns(pid int) int {
	ents, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	n := -1
	for _, e := range ents {
		if s, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name())); strings.HasPrefix(s, "socket:") {
			n++
		}
	}
	return n
}

func TestSignalsGoToTheWorkload(t *testing.T) {
	w := newWorld(t)
	c := w.hv("run", "--rm", "host", "sh", "-c", `trap "echo got; exit 9" INT; echo up; while :; do sleep 0.05; done`)
	out := c.lines()
	c.start()
	if got := <-out; got != "up" {
		t.Fatalf("%q", got)
	}
	_ = c.cmd.Process.Signal(syscall.SIGINT)
	if got := <-out; got != "got" {
		t.Errorf("%q", got)
	}
	if code := c.wait(); code != 9 {
		t.Errorf("exit code %d", code)
	}
}

func TestSecondInterruptKills(t *testing.T) {
	w := newWorld(t)
	c := w.hv("run", "--rm", "host", "sh", "-c", `trap "echo got" INT; echo up; while :; do sleep 0.05; done`)
	out := c.lines()
	c.start()
	<-out
	_ = c.cmd.Process.Signal(syscall.SIGINT)
	if got := <-out; got != "got" {
		t.Errorf("%q", got)
	}
	_ = c.cmd.Process.Signal(syscall.SIGINT)
	if code := c.wait(); code != 137 {
		t.Errorf("exit code %d", code)
	}
}

func TestInterruptDuringStartCleansUp(t *testing.T) {
	w := newWorld(t)
	c := w.hv("run", "--name", "web", "-e", "FAKE_HANG_START=1", "host").start()
	w.eventually("owner", func() bool { m, _ := filepath.Glob(filepath.Join(w.root, "*", "control.sock")); return len(m) == 1 })
	_ = c.cmd.Process.Signal(syscall.SIGINT)
	if code := c.wait(); code != 125 {
		t.Errorf("exit code %d, stderr %q", code, c.err.String())
	}
	if got := w.must("ps", "-aq"); got != "" {
		t.Errorf("left: %s", got)
	}
}

func TestLogsOptions(t *testing.T) {
	w := newWorld(t)
	w.must("run", "--name", "web", "host", "sh", "-c", `for i in 1 2 3 4 5; do echo $i; done; printf end; echo err >&2`)
	if got := w.must("logs", "web", "--tail", "3"); got != "4\n5\nend" && got != "5\nend" {
		t.Errorf("tail: %q", got)
	}
	if got := w.must("logs", "web", "-n", "0"); got != "" {
		t.Errorf("tail 0: %q", got)
	}
	c := w.hv("logs", "web")
	if c.run(); c.err.String() != "err\n" || c.out.String() != "1\n2\n3\n4\n5\nend" {
		t.Errorf("streams: %q, %q", c.out.String(), c.err.String())
	}
	for l := range strings.SplitSeq(strings.TrimSpace(w.must("logs", "-t", "web")), "\n") {
		if at, _, ok := strings.Cut(l, " "); !ok || !strings.HasSuffix(at, "Z") {
			t.Errorf("no time: %q", l)
		}
	}
	if got := w.must("logs", "web", "--since", "1h"); !strings.Contains(got, "5") {
		t.Errorf("since an hour: %q", got)
	}
	if got := w.must("logs", "web", "--since", "2999-01-01"); got != "" {
		t.Errorf("since the future: %q", got)
	}
	for l := range strings.SplitSeq(strings.TrimSpace(w.must("logs", "--json", "web")), "\n") {
		if !json.Valid([]byte(l)) {
			t.Errorf("no JSON: %q", l)
		}
	}
	w.fails(125, []string{"--tail x"}, "logs", "--tail", "x", "web")
	w.must("run", "--name", "mute", "--no-log", "host")
	if got := w.must("logs", "mute"); got != "" {
		t.Errorf("--no-log: %q", got)
	}
}

func TestEventsTellTheLife(t *testing.T) {
	w := newWorld(t)
	w.must("run", "--rm", "--name", "first", "host")
	c := w.hv("events", "--json")
	lines := c.lines()
	c.start()
	w.eventually("watching", func() bool { return hasInotify(c.cmd.Process.Pid) })
	if code := w.hv("run", "--rm", "--name", "web", "host", "sh", "-c", "exit 3").run(); code != 3 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"start", "exit"} {
		var e struct {
			Type, Name string
			Attributes map[string]string
		}
		if err := json.Unmarshal([]byte(<-lines), &e); err != nil || e.Type != want || e.Name != "web" {
			t.Errorf("%+v, %v; want %s of web", e, err, want)
		}
		if want == "exit" && e.Attributes["exitCode"] != "3" {
			t.Errorf("%+v", e)
		}
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	if code := c.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := w.must("events", "--no-follow", "first"); strings.Count(got, "\n") != 2 || strings.Contains(got, "web") {
		t.Errorf("recorded: %s", got)
	}
}

func hasInotify(pid int) bool {
	ents, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	for _, e := range ents {
		if s, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name())); strings.Contains(s, "inotify") {
			return true
		}
	}
	return false
}

func TestStatsAndInspect(t *testing.T) {
	w := newWorld(t)
	w.must("run", "-d", "--name", "web", "-m", "64M", "-p", "127.0.0.1:8080:80", "host", "sleep", "1000")
	var s []sampled
	if err := json.Unmarshal([]byte(w.must("stats", "--no-stream", "--interval", "10ms", "--json")), &s); err != nil || len(s) != 1 || s[0].Stats.MemoryLimitBytes != 64<<20 {
		t.Errorf("%+v, %v", s, err)
	}
	if got := w.must("stats", "--no-stream", "--interval", "10ms", "web"); !strings.Contains(got, "64.0 MiB") {
		t.Errorf("table: %s", got)
	}
	// One that is not there is told, wherever it stands.
	for _, refs := range [][]string{{"web", "nosuch"}, {"nosuch", "web"}} {
		w.fails(125, []string{"nosuch"}, append([]string{"stats", "--no-stream", "--interval", "10ms"}, refs...)...)
	}
	var u []usage
	if err := json.Unmarshal([]byte(w.must("top", "--once", "--interval", "10ms", "--json")), &u); err != nil || len(u) != 1 || u[0].LimitBytes != 64<<20 {
		t.Errorf("%+v, %v", u, err)
	}
	if got := w.must("top", "--once", "--interval", "10ms", "--sort", "name"); strings.Contains(got, "\x1b") || strings.Count(got, "\n") != 2 {
		t.Errorf("not on a terminal: %q", got)
	}
	if got := w.must("metrics"); !strings.Contains(got, "\nhvctl_memory_limit_bytes{id=\""+s[0].ID+"\",name=\"web\"} 6.7108864e+07\n") {
		t.Errorf("metrics: %s", got)
	}
	var i []inspected
	if err := json.Unmarshal([]byte(w.must("inspect", "web")), &i); err != nil || len(i) != 1 || i[0].Config.Name != "web" || i[0].Inspect["fake"] != true {
		t.Errorf("%+v, %v", i, err)
	}
	if got := w.must("ps"); !strings.Contains(got, "127.0.0.1:8080->80/tcp") {
		t.Errorf("ports: %s", got)
	}
}

func TestHundredRunsLeakNothing(t *testing.T) {
	w := newWorld(t)
	runs := 100
	if testing.Short() {
		runs = 10
	}
	before := ownersOf(w)
	for range runs {
		if got := w.must("run", "--rm", "--name", "web", "host", "echo", "x"); got != "x\n" {
			t.Fatalf("%q", got)
		}
	}
	if after := ownersOf(w); len(after) != len(before) {
		t.Errorf("owners left: %v", after)
	}
	ents, err := os.ReadDir(w.root)
	if err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(filepath.Join(w.root, ".names"))
	if err != nil {
		t.Fatal(err)
	}
	if len(ents) != 3 || len(names) != 0 { // .lock .names .events
		t.Errorf("left: %v, names %v", ents, names)
	}
}

// ownersOf is every process with the world's root in its command line.
func ownersOf(w *world) (out []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), w.root) {
			out = append(out, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}

func TestEightAtOnce(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for range 3 {
				c := w.hv("run", "--rm", "host", "echo", fmt.Sprint(n))
				if code := c.run(); code != 0 || c.out.String() != fmt.Sprintln(n) {
					t.Errorf("%d: %d, %q, %q", n, code, c.out.String(), c.err.String())
				}
			}
		})
	}
	wg.Wait()
	if got := w.must("ps", "-aq"); got != "" {
		t.Errorf("left: %s", got)
	}
}

// Owners have just the descriptors they need.
func TestOwnerHasFewDescriptors(t *testing.T) {
	w := newWorld(t)
	w.must("run", "-d", "--name", "web", "host", "sleep", "1000")
	ents, err := os.ReadDir("/proc/" + w.ownerPID("web") + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	var fds []string
	for _, e := range ents {
		to, _ := os.Readlink("/proc/" + w.ownerPID("web") + "/fd/" + e.Name())
		fds = append(fds, to)
	}
	if len(ents) > 16 { // with the fake's three pipes and a pidfd, and what Go itself has
		t.Errorf("%d descriptors: %q", len(ents), fds)
	}
	pid, _ := strconv.Atoi(w.ownerPID("web"))
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d of process %d, %v", sid, pid, err)
	}
}
