package container_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func withCaps(names ...string) *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
}

// TestProgramSees has a configuration and what the program finds.
func TestProgramSees(t *testing.T) {
	for _, c := range []struct {
		name, script, want string
		change             func(s *specs.Spec)
	}{
		{"its user", "id -u; id -g; id -G", "7\n8\n8 9 10", func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9, 10}}
		}},
		{"no capability", "grep Cap /proc/self/status | grep -v 0000000000000000", "", nil},
		{
			"its capabilities", "grep -E 'Cap(Inh|Eff|Bnd)' /proc/self/status",
			"CapInh:\t0000000000000000\nCapEff:\t0000000000002001\nCapBnd:\t0000000000002001", func(s *specs.Spec) {
				s.Process.Capabilities = withCaps("CAP_CHOWN", "CAP_NET_RAW")
			},
		},
		{
			"ambient capabilities as another user", "grep -E 'Cap(Eff|Amb)' /proc/self/status",
			"CapEff:\t0000000000002000\nCapAmb:\t0000000000002000", func(s *specs.Spec) {
				c := withCaps("CAP_NET_RAW")
				c.Inheritable, c.Ambient = c.Bounding, c.Bounding
				s.Process.Capabilities, s.Process.User = c, specs.User{UID: 7}
			},
		},
		{"no_new_privs", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1", func(s *specs.Spec) { s.Process.NoNewPrivileges = true }},
		{"its names", "hostname; cat /proc/sys/kernel/domainname", "inside\ndomain", func(s *specs.Spec) { s.Hostname, s.Domainname = "inside", "domain" }},
		{"its directory", "pwd", "/etc", func(s *specs.Spec) { s.Process.Cwd = "/etc" }},
		{"its directory, where the image has none", "pwd; stat -c '%a %u' .", "/srv/of/mine\n755 0", func(s *specs.Spec) { s.Process.Cwd = "/srv/of/mine" }},
		{"its umask", "umask", "0077", func(s *specs.Spec) { s.Process.User.Umask = new(uint32(0o77)) }},
		{"its home", "echo $HOME", "/", nil},
		{"no descriptor of ours", "ls /proc/self/fd", "0\n1\n2\n3", nil}, // 3 is ls's own
		{"itself as process 1", "echo $$", "1", nil},
		{"a group that is the root", "cat /proc/self/cgroup | grep -v :/$", "", nil},
		{"its limits of resources", "ulimit -n; ulimit -f", "100\n4", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 100}, {Type: "RLIMIT_FSIZE", Soft: 2048, Hard: 2048}}
		}},
		{"little memory", "ulimit -v", "20000", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_AS", Soft: 20000 << 10, Hard: 20000 << 10}}
		}},
		{"a sysctl", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", "1\n4096", func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"}
		}},
		{"its OOM score", "cat /proc/self/oom_score_adj", "500", func(s *specs.Spec) { s.Process.OOMScoreAdj = new(500) }},
		{"masked paths", "cat /proc/cpuinfo; ls /proc/sys", "", func(s *specs.Spec) {
			s.Linux.MaskedPaths = []string{"/proc/cpuinfo", "/proc/sys", "/not/there"}
		}},
		{"read-only paths", "echo x 2>/dev/null >/etc/x || echo refused", "refused", func(s *specs.Spec) {
			s.Linux.ReadonlyPaths = []string{"/etc", "/not/there"}
		}},
		{"a read-only root", "mkdir /x 2>/dev/null || echo refused", "refused", func(s *specs.Spec) { s.Root.Readonly = true }},
		{
			"its devices", "stat -c '%n %F %t:%T %a %u' /dev/null /dev/mine; cat /dev/null",
			"/dev/null character special file 1:3 666 0\n/dev/mine character special file 1:5 640 7", func(s *specs.Spec) {
				mode := os.FileMode(0o640)
				s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 1, Minor: 5, FileMode: &mode, UID: new(uint32(7))}}
			},
		},
		{"no device that is not allowed", "cat /dev/mine 2>&1 | grep -c 'not permitted'", "1", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 200, Minor: 1}}
		}},
		{"a device that is", "cat /dev/mine 2>&1 | grep -c 'No such device'", "1", func(s *specs.Spec) { // allowed, but nobody has such
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 200, Minor: 1}}
			s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: new(int64(200)), Minor: new(int64(1)), Access: "r"}}}
		}},
		{"a tmpfs", "stat -f -c %T /mnt; stat -c %a /mnt", "tmpfs\n700", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "tmpfs", Options: []string{"mode=700", "size=1m"}})
		}},
		{"a tmpfs with what it hides", "ls /bin/cat; touch /bin/x && echo written", "/bin/cat\nwritten", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/bin", Type: "tmpfs", Options: []string{"tmpcopyup"}})
		}},
		{"a processor", "grep Cpus_allowed_list /proc/self/status", "Cpus_allowed_list:\t0", func(s *specs.Spec) {
			s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "0"}
		}},
		{"a scheduler", "cut -d' ' -f19,41 /proc/self/stat", "5 3", func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}
		}},
		{"another clock", "test $(cut -d. -f1 /proc/uptime) -gt 1000000 && echo moved", "moved", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000000}, "monotonic": {Secs: 1000000}}
		}},
		{"a personality", "uname -m", "i686", func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} }},
		{"a filter", "mkdir /tmp/x 2>&1; stat /etc >/dev/null && echo alive", "mkdir: can't create directory '/tmp/x': No data available\nalive", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: new(uint(unix.ENODATA))},
			}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			for name := range strings.FieldsSeq("uname cut ulimit") {
				_ = os.Symlink("busybox", filepath.Join(h.bundle, "rootfs", "bin", name)) // there already, some of them
			}
			s := h.spec(c.script)
			if c.change != nil {
				c.change(s)
			}
			if got, _ := h.output(s); got != c.want {
				t.Errorf("it sees %q, want %q", got, c.want)
			}
		})
	}
}

// TestIgnoredSignalsWork has a caller as a script's background makes it.
func TestIgnoredSignalsWork(t *testing.T) {
	h := newHost(t)
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT)
	defer signal.Reset(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT)
	s := h.spec("")
	s.Process.Args = []string{"sleep", "1000"} // a shell would ignore some itself
	h.mustCreate(s)
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	ask := shell("")
	ask.Args = []string{"grep", "-h", "SigIgn", "/proc/1/status", "/proc/self/status"}
	out, _, err := h.execute(ask)
	lines := strings.Fields(out) // "SigIgn:" and a set, twice
	if err != nil || len(lines) != 4 {
		t.Fatalf("%q, %v", out, err)
	}
	for _, text := range []string{lines[1], lines[3]} {
		// Those of the C library itself are its affair: who is started by posix_spawn(3)
		// has them ignored.
		const internal = 1<<(32-1) | 1<<(33-1)
		if set, err := strconv.ParseUint(text, 16, 64); err != nil || set&^internal != 0 {
			t.Errorf("ignored signals: %s, %v", text, err)
		}
	}
}

// TestImageDoesNotSayWhoMayUseADevice: files it has are made anew with the
// configuration's owner and mode.
func TestImageDoesNotSayWhoMayUseADevice(t *testing.T) {
	h := newHost(t)
	for name, minor := range map[string]uint32{"zero": 5, "mine": 7, "null": 5} {
		if err := unix.Mknod(filepath.Join(h.bundle, "rootfs", "dev", name), unix.S_IFCHR|0o604, int(unix.Mkdev(1, minor))); err != nil {
			t.Fatal(err)
		}
	}
	s := h.spec("stat -c '%n %t:%T %a %u %g' /dev/zero /dev/mine /dev/null")
	s.Mounts = s.Mounts[:1] // no tmpfs on /dev
	s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 1, Minor: 7, FileMode: new(os.FileMode(0o600)), GID: new(uint32(7))}}
	if got, want := first(h.output(s)), "/dev/zero 1:5 666 0 0\n/dev/mine 1:7 600 0 7\n/dev/null 1:3 666 0 0"; got != want {
		t.Errorf("they are %q, want %q", got, want)
	}
}

func first(out string, _ int) string { return out }

// TestExecBesideAnInitSystem: one that makes groups of its own leaves none of
// its processes in the container's, which then can have none.
func TestExecBesideAnInitSystem(t *testing.T) {
	h := newHost(t)
	s := h.spec("sleep 1000")
	const controller = "hugetlb" // v1 hosts leave that one to the v2 tree beside
	s.Linux.Resources = &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1 << 21}}}
	p := h.mustCreate(s)
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	group, err := h.Cgroups.Open(s.Linux.CgroupsPath)
	if err != nil {
		t.Fatal(err)
	}
	dir := group.Paths()[""]
	if b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers")); err != nil || !strings.Contains(string(b), controller) {
		if len(group.Paths()) == 1 { // v2 alone has every controller
			t.Fatalf("no controller %s on cgroup v2: %q, %v", controller, b, err)
		}
		t.Skipf("needs a v2 tree with the controller %s; %q, %v", controller, b, err)
	}
	err = errors.Join(os.Mkdir(filepath.Join(dir, "init"), 0o755),
		os.WriteFile(filepath.Join(dir, "init", "cgroup.procs"), []byte(strconv.Itoa(p.PID)), 0),
		os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0))
	if err != nil {
		t.Fatal(err)
	}
	if out, _, err := h.execute(shell("grep -c 0::/init$ /proc/self/cgroup")); err != nil || out != "1" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestExtraFilesBecomeDescriptors(t *testing.T) {
	h := newHost(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	_, code := h.output(h.spec("echo hello >&4; test -r /proc/self/fd/3 -a ! -e /proc/self/fd/5"), func(o *container.CreateOptions) {
		o.ExtraFiles = []*os.File{null, w}
	})
	w.Close()
	if b, err := io.ReadAll(r); string(b) != "hello\n" || err != nil || code != 0 {
		t.Errorf("read %q, %v; exit code %d", b, err, code)
	}
}

// console is a connection on which a terminal arrives.
func console(t *testing.T) (theirs *os.File, receive func() *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs = os.NewFile(uintptr(pair[1]), "console")
	t.Cleanup(func() { theirs.Close(); unix.Close(pair[0]) })
	return theirs, func() *os.File {
		oob := make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 64), oob, unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(msgs) != 1 {
			t.Fatalf("received %d messages, %v", len(msgs), err)
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("received descriptors %v, %v", fds, err)
		}
		f := os.NewFile(uintptr(fds[0]), "terminal")
		t.Cleanup(func() { f.Close() })
		return f
	}
}

// said reads a terminal until the other end is closed.
func said(f *os.File) string {
	b, _ := io.ReadAll(f) // EIO is how it ends
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "\r\n", "\n")
}

func TestTerminal(t *testing.T) {
	h := newHost(t)
	s := h.spec("tty; stty size; readlink /proc/self/fd/0; test -c /dev/console && echo console; echo done >/dev/tty")
	s.Process.Terminal, s.Process.ConsoleSize = true, &specs.Box{Width: 100, Height: 30}
	theirs, receive := console(t)
	p := h.mustCreate(s, func(o *container.CreateOptions) { o.Console = theirs })
	master := receive()
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	if got, want := said(master), "/dev/pts/0\n30 100\n/dev/pts/0\nconsole\ndone"; got != want {
		t.Errorf("it said %q, want %q", got, want)
	}
	wait(t, p)
}

func TestExec(t *testing.T) {
	for _, kind := range []string{"plain", "user namespace"} {
		t.Run(kind, func(t *testing.T) {
			h := newHost(t)
			s := h.spec("sleep 1000")
			s.Hostname = "inside"
			if kind != "plain" {
				inUserNS(s)
			}
			h.mustCreate(s)
			if err := h.Start(t.Context(), h.id()); err != nil {
				t.Fatal(err)
			}
			out, code, err := h.execute(shell("hostname; ls -d /proc/1; id -u; ls /proc/self/fd; grep -c :/$ /proc/self/cgroup; exit 5"))
			if err != nil {
				t.Fatal(err)
			}
			groups, err := os.ReadFile("/proc/self/cgroup")
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("inside\n/proc/1\n0\n0\n1\n2\n3\n%d", strings.Count(string(groups), "\n"))
			if out != want || code != 5 {
				t.Errorf("it wrote %q and ended with %d; want %q, 5", out, code, want)
			}
			for ns := range strings.FieldsSeq("mnt pid net ipc uts cgroup user") {
				links := "readlink /proc/1/ns/" + ns + "; readlink /proc/self/ns/" + ns
				out, _, err := h.execute(&specs.Process{Args: []string{"sh", "-c", links}, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: withCaps("CAP_SYS_PTRACE")})
				if lines := strings.Fields(out); err != nil || len(lines) != 2 || lines[0] != lines[1] {
					t.Errorf("namespace %s: %q, %v", ns, out, err)
				}
			}
		})
	}
}

// TestProcessesAreInEveryHierarchy: on hosts with several hierarchies it takes
// more than birth in one of them.
func TestProcessesAreInEveryHierarchy(t *testing.T) {
	h := newHost(t)
	p := h.mustCreate(h.spec("while :; do sleep 1; done"))
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	e, err := h.Exec(t.Context(), h.id(), container.ExecOptions{Process: shell("while :; do sleep 1; done")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Kill(e.PID, unix.SIGKILL) // our child: the container ends when it is waited for
		wait(t, e)
		e.FD.Close()
	}()
	for _, pid := range []int{p.PID, e.PID} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(b), "\n"); n == 0 || strings.Count(string(b), h.id()+"\n") != n {
			t.Errorf("process %d is in\n%s", pid, b)
		}
	}
}

// TestExecInAPausedContainer runs when the container goes on.
func TestExecInAPausedContainer(t *testing.T) {
	h := newHost(t)
	h.mustCreate(h.spec("while :; do sleep 1; done"))
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	if err := h.Pause(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	type result struct {
		out  string
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		out, code, err := h.execute(shell("echo went on"), func(o *container.ExecOptions) { o.IgnorePaused = true })
		done <- result{out, code, err}
	}()
	until(t, "the process to be in the group", func() bool {
		pids, err := h.Procs(h.id())
		return err == nil && len(pids) > 1
	})
	select {
	case r := <-done:
		t.Fatalf("it ran in a paused container: %+v", r)
	default:
	}
	if err := h.Resume(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.out != "went on" || r.code != 0 || r.err != nil {
		t.Errorf("%+v", r)
	}
}

func TestExecRefuses(t *testing.T) {
	h := newHost(t)
	h.mustCreate(h.spec("sleep 1000"))
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*specs.Process)
		says   string
	}{
		{"no such program", func(p *specs.Process) { p.Args = []string{"nope"} }, `exec: "nope": executable file not found in $PATH`},
		{"no such file", func(p *specs.Process) { p.Args = []string{"/nope"} }, "no such file or directory"},
		{"a folder", func(p *specs.Process) { p.Args = []string{"/etc"} }, "permission denied"},
		{"no such directory", func(p *specs.Process) { p.Cwd = "/nope" }, "process.cwd: chdir /nope: no such file or directory"},
		{"unknown capability", func(p *specs.Process) { p.Capabilities = withCaps("CAP_NOPE") }, `process.capabilities.bounding: capability "CAP_NOPE" is unknown`},
		{"a directory by descriptor", func(p *specs.Process) { p.Cwd = "/proc/self/fd/3" }, "leads through an open descriptor"},
		{"a descriptor further on", func(p *specs.Process) { p.Cwd = "/proc/1/fd/../../self/fd/5" }, "process.cwd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 5 { // the two processes of an exec may report in any order
				p := shell("true")
				c.change(p)
				if _, _, err := h.execute(p); err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("error is %v, want one with %q", err, c.says)
				}
			}
		})
	}
	if pids, err := h.Procs(h.id()); err != nil || len(pids) != 1 {
		t.Errorf("processes left: %v, %v", pids, err)
	}
}

func TestExecWithTerminalAndFilter(t *testing.T) {
	h := newHost(t)
	s := h.spec("sleep 1000")
	s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: new(uint(unix.ENODATA))},
	}}
	h.mustCreate(s)
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	theirs, receive := console(t)
	p := shell("tty; mkdir /tmp/x; grep -E 'Seccomp:|NoNew' /proc/self/status")
	p.Terminal, p.NoNewPrivileges = true, true
	proc, err := h.Exec(t.Context(), h.id(), container.ExecOptions{Process: p, Console: theirs})
	if err != nil {
		t.Fatal(err)
	}
	defer proc.FD.Close()
	want := "/dev/pts/0\nmkdir: can't create directory '/tmp/x': No data available\nNoNewPrivs:\t1\nSeccomp:\t2"
	if got := said(receive()); got != want {
		t.Errorf("it said %q, want %q", got, want)
	}
	wait(t, proc)
}

func inUserNS(s *specs.Spec) {
	s.Linux.Namespaces = append(slices.Clone(s.Linux.Namespaces), specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	s.Linux.GIDMappings = s.Linux.UIDMappings
}

func TestUserNamespaceWithMappedMount(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir() // 0700: the container's root could not look it up
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, option, want string }{
		{"mapped", "idmap", "0\n0"},
		{"as it is", "bind", "0\n65534"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := *h
			h.t = t
			s := h.spec("id -u; stat -c %u /mnt/file")
			inUserNS(s)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: dir, Options: []string{"bind", c.option}})
			_, err := h.create(s)
			if err != nil && strings.Contains(err.Error(), "its file system may not support it") {
				t.Skipf("tmpfs and overlay of older kernels (before 6.3) take no ID mapping: %v", err)
			}
			if err == nil {
				err = h.Delete(t.Context(), h.id(), true)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := h.output(s); got != c.want {
				t.Errorf("it sees %q, want %q", got, c.want)
			}
		})
	}
}

// TestJoinsNamespaces makes a container in the namespaces of another, by their
// paths.
func TestJoinsNamespaces(t *testing.T) {
	for _, kind := range []string{"plain", "user namespace"} {
		t.Run(kind, func(t *testing.T) {
			first, second := newHost(t), newHost(t)
			s := first.spec("sleep 1000")
			s.Hostname = "first"
			if kind != "plain" {
				inUserNS(s)
			}
			p := first.mustCreate(s)
			s2 := second.spec("hostname; echo $(($$ > 1)); id -u; cat /proc/self/uid_map")
			s2.Linux.CgroupsPath += "-second"
			s2.Linux.Namespaces = nil
			for _, ns := range s.Linux.Namespaces {
				file := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.MountNamespace: "mnt"}[ns.Type]
				if file == "" {
					file = string(ns.Type)
				}
				if ns.Type != specs.MountNamespace {
					ns.Path = fmt.Sprintf("/proc/%d/ns/%s", p.PID, file)
				}
				s2.Linux.Namespaces = append(s2.Linux.Namespaces, ns)
			}
			got, _ := second.output(s2)
			ids := "0 0 4294967295"
			if kind != "plain" {
				ids = "0 100000 65536"
			}
			if got = strings.Join(strings.Fields(got), " "); got != "first 1 0 "+ids {
				t.Errorf("it sees %q", got)
			}
		})
	}
}

func TestLimitsAreSetAndChanged(t *testing.T) {
	h := newHost(t)
	s := h.spec("sleep 1000")
	s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(20))}}
	h.mustCreate(s)
	for _, want := range []int64{20, 30} {
		if want != 20 {
			if err := h.Update(t.Context(), h.id(), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &want}}); err != nil {
				t.Fatal(err)
			}
		}
		st, err := h.Stats(h.id())
		if err != nil {
			t.Fatal(err)
		}
		if st.PIDs.Limit != uint64(want) || st.PIDs.Current == 0 {
			t.Errorf("stats say %+v, want a limit of %d", st.PIDs, want)
		}
	}
}
