package container_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (h *host) wantStatus(want container.Status) {
	h.t.Helper()
	st, err := h.State(h.id())
	if err != nil {
		h.t.Fatal(err)
	}
	if st.Status != want {
		h.t.Fatalf("status is %s, want %s", st.Status, want)
	}
	if (want == container.Stopped) != (st.PID == 0) {
		h.t.Errorf("PID %d while %s", st.PID, want)
	}
}

func TestLifecycle(t *testing.T) {
	h := newHost(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	p := h.mustCreate(h.spec("sleep 1000"), func(o *container.CreateOptions) { o.PIDFile = pidFile })
	if b, err := os.ReadFile(pidFile); err != nil || string(b) != strconv.Itoa(p.PID) {
		t.Errorf("PID file has %q, %v; want %d", b, err, p.PID)
	}
	h.wantStatus(container.Created)
	if err := h.Delete(t.Context(), h.id(), false); !errors.Is(err, container.ErrState) {
		t.Errorf("delete of a created container: %v", err)
	}
	if _, err := h.Create(t.Context(), container.CreateOptions{ID: h.id(), Bundle: h.bundle, Spec: h.spec("true")}); !errors.Is(err, container.ErrExist) {
		t.Errorf("a second one of that name: %v", err)
	}
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	h.wantStatus(container.Running)
	if err := h.Start(t.Context(), h.id()); !errors.Is(err, container.ErrState) {
		t.Errorf("a second start: %v", err)
	}
	if err := h.Pause(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	h.wantStatus(container.Paused)
	if _, _, err := h.execute(shell("true")); !errors.Is(err, container.ErrState) {
		t.Errorf("exec while paused: %v", err)
	}
	if err := h.Resume(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	h.wantStatus(container.Running)
	if err := h.Pause(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	if err := h.Kill(t.Context(), h.id(), unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if code := wait(t, p); code != 128+9 {
		t.Errorf("a killed container ended with %d", code)
	}
	h.wantStatus(container.Stopped)
	if err := h.Kill(t.Context(), h.id(), unix.SIGTERM, false); !errors.Is(err, container.ErrNotRunning) {
		t.Errorf("kill of a stopped container: %v", err)
	}
	if err := h.Delete(t.Context(), h.id(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := h.State(h.id()); !errors.Is(err, container.ErrNotExist) {
		t.Errorf("state of a deleted container: %v", err)
	}
	if err := h.Delete(t.Context(), h.id(), true); err != nil {
		t.Errorf("delete with force of what is not there: %v", err)
	}
	h.nothingLeft()
}

// nothingLeft looks for what a container could leave.
func (h *host) nothingLeft() {
	h.t.Helper()
	if list, err := os.ReadDir(h.Root); err != nil || len(list) > 0 {
		h.t.Errorf("left in the state root: %v, %v", list, err)
	}
	left, _ := filepath.Glob("/sys/fs/cgroup/*/hvctl-test/" + h.id())
	more, _ := filepath.Glob("/sys/fs/cgroup/hvctl-test/" + h.id())
	if left = append(left, more...); len(left) > 0 {
		h.t.Errorf("left cgroups: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		h.t.Fatal(err)
	}
	if strings.Contains(string(mounts), h.bundle) {
		h.t.Error("the bundle's root is still mounted somewhere")
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *specs.Spec)
		says   string
	}{
		{"no such program", func(s *specs.Spec) { s.Process.Args = []string{"nope"} }, `exec: "nope": executable file not found in $PATH`},
		{"no such file", func(s *specs.Spec) { s.Process.Args = []string{"/nope"} }, "no such file or directory"},
		{"not executable", func(s *specs.Spec) { s.Process.Args = []string{"/etc"} }, "permission denied"},
		{"a file as directory", func(s *specs.Spec) { s.Process.Cwd = "/bin/busybox/x" }, "process.cwd: chdir /bin/busybox/x: not a directory"},
		{"no path to look in", func(s *specs.Spec) { s.Process.Args, s.Process.Cwd, s.Process.Env = []string{"sh"}, "/bin", nil }, `exec: "sh": executable file not found in $PATH`},
		{"kernel parameter of our own network", func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
			s.Linux.Namespaces[1].Path = "/proc/self/ns/net"
		}, "linux.namespaces[1] (network): /proc/self/ns/net is our own, where linux.sysctl.net.ipv4.ip_forward would change the host's"},
		{"name in our own UTS namespace", func(s *specs.Spec) {
			s.Hostname, s.Linux.Namespaces[3].Path = "mine", "/proc/self/ns/uts"
		}, "linux.namespaces[3] (uts): /proc/self/ns/uts is our own, where hostname would change the host's"},
		{"unknown file system", func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "nofs"}) }, `mount /mnt: file system "nofs"`},
		{"missing bind source", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: "/nope", Options: []string{"bind"}})
		}, "bind /nope: no such file or directory"},
		{"bad limit", func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(-7))}}
		}, "linux.resources.pids.limit"},
		{"failing prestart hook", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo gone wrong; exit 3"}}}} //nolint:staticcheck // as above
		}, "hooks.prestart[0] /bin/sh: exit status 3, output: gone wrong"},
		{"slow hook", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "100"}, Timeout: new(1)}}}
		}, "took longer than 1 s and was killed"},
		{"failing hook inside", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/false"}}}
		}, "hooks.createContainer[0] /bin/false"},
		{"seccomp without an action", func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} }, "linux.seccomp: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			s := h.spec("true")
			c.change(s)
			_, err := h.create(s)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error is %v, want one with %q", err, c.says)
			}
			h.nothingLeft()
			if h.log.Len() > 0 {
				t.Errorf("logged: %s", h.log)
			}
		})
	}
}

// TestCreateWithoutProcess follows runtime.md, "Start": such a container can
// be made, and not be started.
func TestCreateWithoutProcess(t *testing.T) {
	h := newHost(t)
	s := h.spec("")
	s.Process = nil
	h.mustCreate(s)
	h.wantStatus(container.Created)
	if err := h.Start(t.Context(), h.id()); err == nil || !strings.Contains(err.Error(), "process") {
		t.Errorf("start: %v", err)
	}
}

func TestHooksRunAtTheirMoments(t *testing.T) {
	h := newHost(t)
	log := filepath.Join(testDir(t), "log")
	hook := func(name string) []specs.Hook {
		script := fmt.Sprintf(`read s; s=${s#*'"status":"'}; echo %s ${s%%%%'"'*} >> %s`, name, log)
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"}}}
	}
	s := h.spec("echo program >> /log")
	s.Hooks = &specs.Hooks{
		Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"), //nolint:staticcheck // deprecated, and still to be run
		Poststart: hook("poststart"), Poststop: hook("poststop"),
		StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo startContainer >> /log"}, Env: []string{"PATH=/bin"}}},
	}
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", ", ")
	}
	p := h.mustCreate(s)
	if got, want := read(log), "prestart created, createRuntime creating, createContainer creating"; got != want {
		t.Errorf("after create: %s; want %s", got, want)
	}
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	wait(t, p)
	if got, want := read(filepath.Join(h.bundle, "rootfs", "log")), "startContainer, program"; got != want {
		t.Errorf("inside: %s; want %s", got, want)
	}
	if err := h.Delete(t.Context(), h.id(), false); err != nil {
		t.Fatal(err)
	}
	if got, want := read(log), "prestart created, createRuntime creating, createContainer creating, poststart running, poststop stopped"; got != want {
		t.Errorf("at the end: %s; want %s", got, want)
	}
}

// TestStateWhileStartContainerHooksRun has a hook ask for the state, in effect:
// the container that waits has to answer.
func TestStateWhileStartContainerHooksRun(t *testing.T) {
	h := newHost(t)
	gate := filepath.Join(h.bundle, "rootfs", "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	s := h.spec("sleep 1000")
	s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "read x < /gate"}, Env: []string{"PATH=/bin"}}}}
	h.mustCreate(s)
	started := make(chan error, 1)
	go func() { started <- h.Start(t.Context(), h.id()) }()
	var w *os.File
	until(t, "the hook runs", func() bool {
		f, err := os.OpenFile(gate, os.O_WRONLY|unix.O_NONBLOCK, 0)
		w = f
		return err == nil
	})
	h.wantStatus(container.Created)
	w.Close()
	if err := <-started; err == nil || !strings.Contains(err.Error(), "exit status 1") { // it read nothing
		t.Errorf("start: %v", err)
	}
}

// TestFailedCreateRunsPoststopHooks follows runtime.md, "Lifecycle", steps 3 to
// 5: they undo what the hooks of the creation did.
func TestFailedCreateRunsPoststopHooks(t *testing.T) {
	h := newHost(t)
	log := filepath.Join(testDir(t), "log")
	s := h.spec("true")
	s.Hooks = &specs.Hooks{
		CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo made >> " + log}}, {Path: "/bin/false"}},
		Poststop:      []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "grep -o stopped >> " + log}, Env: []string{"PATH=/bin:/usr/bin"}}},
	}
	if _, err := h.create(s); err == nil {
		t.Fatal("it was made")
	}
	if b, err := os.ReadFile(log); err != nil || string(b) != "made\nstopped\n" {
		t.Errorf("the hooks wrote %q, %v", b, err)
	}
	h.nothingLeft()
}

// TestFailedCreateClosesItsDescriptors fails where some are open already.
func TestFailedCreateClosesItsDescriptors(t *testing.T) {
	h := newHost(t)
	s := h.spec("true")
	s.Process.Terminal = true
	open := func() string {
		out, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(out, " ")
	}
	before := open()
	if _, err := h.create(s, func(o *container.CreateOptions) { o.ConsoleSocket = filepath.Join(h.bundle, "nobody") }); err == nil {
		t.Fatal("it was made")
	}
	if after := open(); after != before {
		t.Errorf("open are %s, before %s", after, before)
	}
}

func TestFailingPoststartKills(t *testing.T) {
	h := newHost(t)
	s := h.spec("sleep 1000")
	s.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/false"}}, Poststop: []specs.Hook{{Path: "/bin/false"}}}
	p := h.mustCreate(s)
	if err := h.Start(t.Context(), h.id()); err == nil || !strings.Contains(err.Error(), "hooks.poststart[0]") {
		t.Errorf("start: %v", err)
	}
	if code := wait(t, p); code != 128+9 {
		t.Errorf("it ended with %d", code)
	}
	if err := h.Delete(t.Context(), h.id(), false); err != nil {
		t.Errorf("a failing poststop hook stopped the deletion: %v", err)
	}
	if !strings.Contains(h.log.String(), "poststop") {
		t.Errorf("nothing was logged of the failing poststop hook: %s", h.log)
	}
}

// mainThreadEnds makes this binary a program whose first thread ends, and the
// others do not.
const mainThreadEnds = "HVCTL_TEST_MAIN_THREAD_ENDS"

func init() {
	if os.Getenv(mainThreadEnds) != "" { // here, the goroutine is locked to that thread
		begun := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(begun)
			for { // nobody writes
				_, _ = unix.Read(0, make([]byte, 1))
			}
		}()
		<-begun
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
}

func TestFirstThreadIsNotTheProcess(t *testing.T) {
	h := newHost(t)
	copyFile(t, os.Args[0], filepath.Join(h.bundle, "rootfs", "bin", "threads"))
	s := h.spec("")
	s.Process.Args, s.Process.Env = []string{"/bin/threads"}, []string{mainThreadEnds + "=1"}
	for _, dir := range []string{"/lib", "/lib64"} { // with the race detector, it has a dynamic linker
		s.Mounts = append(s.Mounts, specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: []string{"bind", "ro"}})
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	p := h.mustCreate(s, func(o *container.CreateOptions) { o.Stdio[0] = r })
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	until(t, "its first thread has ended", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
		return err == nil && strings.Contains(string(b), ") Z ")
	})
	h.wantStatus(container.Running)
	if err := h.Kill(t.Context(), h.id(), unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if code := wait(t, p); code != 128+9 {
		t.Errorf("it ended with %d", code)
	}
	h.wantStatus(container.Stopped)
}

func TestRunStartsAtOnce(t *testing.T) {
	h := newHost(t)
	p, err := h.Run(t.Context(), container.CreateOptions{ID: h.id(), Bundle: h.bundle, Spec: h.spec("exit 7")})
	if err != nil {
		t.Fatal(err)
	}
	defer p.FD.Close()
	if code := wait(t, p); code != 7 {
		t.Errorf("it ended with %d", code)
	}
	h.wantStatus(container.Stopped)
	if err := h.Delete(t.Context(), h.id(), false); err != nil {
		t.Error(err)
	}
	h.nothingLeft()
}

func TestKillAllReachesEveryProcess(t *testing.T) {
	h := newHost(t)
	s := h.spec("sleep 1000 & sleep 1000 & exec sleep 1000")
	for i, ns := range s.Linux.Namespaces { // without one, the others survive the first
		if ns.Type == specs.PIDNamespace {
			s.Linux.Namespaces = append(s.Linux.Namespaces[:i], s.Linux.Namespaces[i+1:]...)
			break
		}
	}
	p := h.mustCreate(s)
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	var pids []int
	until(t, "three processes", func() bool {
		var err error
		if pids, err = h.Procs(h.id()); err != nil {
			t.Fatal(err)
		}
		return len(pids) == 3
	})
	if err := h.Kill(t.Context(), h.id(), unix.SIGTERM, true); err != nil {
		t.Fatal(err)
	}
	if code := wait(t, p); code != 128+15 {
		t.Errorf("it ended with %d", code)
	}
	for _, pid := range pids {
		until(t, "the end of its process", func() bool {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || strings.Contains(string(b), ") Z ")
		})
	}
	if err := h.Kill(t.Context(), h.id(), unix.SIGTERM, true); err != nil {
		t.Errorf("kill --all with nobody left: %v", err)
	}
}
