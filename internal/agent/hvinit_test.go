package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/testenv"
)

// These tests run the real guest init, as PID 1 of fresh namespaces of this
// machine, over unix sockets: processes, streams, terminals, signals, exit
// codes and reaping are the real thing, only the hardware is missing.

// unixTransport accepts the guest's connections on two sockets in a directory.
type unixTransport struct{ control, stream net.Listener }

func newUnixTransport(t *testing.T, dir string) *unixTransport {
	t.Helper()
	listen := func(port int) net.Listener {
		l, err := net.Listen("unix", filepath.Join(dir, fmt.Sprint(port)))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	u := &unixTransport{listen(guestproto.ControlPort), listen(guestproto.StreamPort)}
	t.Cleanup(u.Close)
	return u
}

func (u *unixTransport) Close() {
	u.control.Close()
	u.stream.Close()
}

func (u *unixTransport) AcceptControl(ctx context.Context) (net.Conn, error) {
	return accept(ctx, u.control)
}

func (u *unixTransport) AcceptStream(ctx context.Context) (net.Conn, error) {
	return accept(ctx, u.stream)
}

func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.(*net.UnixListener).SetDeadline(time.Unix(1, 0)) })
	c, err := l.Accept()
	if !stop() {
		return nil, errors.Join(err, context.Cause(ctx))
	}
	return c, err
}

// builtDir is what TestMain removes.
var builtDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if builtDir != "" {
		_ = os.RemoveAll(builtDir)
	}
	os.Exit(code)
}

// buildHvinit builds the guest's init once per run, unless a built one is at
// hand: in HVCTL_HVINIT, or in HVCTL_BIN (the test host, where compiling would
// take more than a minute).
var buildHvinit = sync.OnceValues(func() (string, error) {
	if p := os.Getenv("HVCTL_HVINIT"); p != "" {
		return p, nil
	}
	if d := os.Getenv("HVCTL_BIN"); d != "" {
		return filepath.Join(d, "hvinit"), nil
	}
	dir, err := os.MkdirTemp("", "hvinit")
	if err != nil {
		return "", err
	}
	builtDir = dir
	bin := filepath.Join(dir, "hvinit")
	cmd := exec.Command("go", "build", "-o", bin, "github.com/hvctl/hvctl/cmd/hvinit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build hvinit: %w\n%s", err, out)
	}
	return bin, nil
})

// guest is a running hvinit and the session with it.
type guest struct {
	*agent.Session
	t         *testing.T
	cmd       *exec.Cmd
	console   *bytes.Buffer
	dir       string
	transport *unixTransport
	served    chan error
	created   int // containers of a pod
	cancel    context.CancelFunc
}

// startGuest starts hvinit over a root file system with busybox, or over those of
// a pod's containers.
func startGuest(t *testing.T, roots ...string) *guest {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Busybox)
	bin, err := buildHvinit()
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, dir: t.TempDir(), console: new(bytes.Buffer), served: make(chan error, 1)}
	if len(roots) == 0 {
		err = makeRootfs(filepath.Join(g.dir, "lower"))
	} else {
		err = rootsOf(t, filepath.Join(g.dir, "lower"), roots)
	}
	if err != nil {
		t.Fatal(err)
	}
	g.transport = newUnixTransport(t, g.dir)
	g.connect()
	g.cmd = exec.Command(bin, "-transport", "unix:"+g.dir, "-lower", g.dir+"/lower", "-base", g.dir+"/base",
		"-cgroup", cgroupDir(t, g.dir))
	g.cmd.Stdout, g.cmd.Stderr = g.console, g.console
	g.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		// Makes the namespace's mounts private.
		Unshareflags: syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL, // a test that times out runs no cleanup
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		_ = g.cmd.Wait()
		g.cancel()
		<-g.served
		if t.Failed() && g.console.Len() != 0 {
			t.Logf("console:\n%s", g.console)
		}
	})
	return g
}

// cgroupDir returns a group of this machine's own hierarchy where that is
// unified; elsewhere a directory that is none, and hvinit does without.
func cgroupDir(t *testing.T, dir string) string {
	var st syscall.Statfs_t
	const cgroup2 = 0x63677270
	if syscall.Statfs("/sys/fs/cgroup", &st) != nil || st.Type != cgroup2 {
		return filepath.Join(dir, "nocgroup")
	}
	group := fmt.Sprintf("/sys/fs/cgroup/hvinit-test-%d", os.Getpid())
	t.Cleanup(func() { _ = os.Remove(group) })
	return group
}

// connect starts a session.
func (g *guest) connect() {
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	g.Session = agent.New(g.transport, agent.Options{CallTimeout: 20 * time.Second})
	s := g.Session
	go func() { g.served <- s.Serve(ctx) }()
}

// makeRootfs fills dir with what an image has.
func makeRootfs(dir string) error {
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "home/app", "private"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755); err != nil {
		return err
	}
	for a := range strings.FieldsSeq("sh cat echo id env pwd ls kill sleep stty tty head dd seq mount hostname ps test wc true touch chmod ip ulimit grep printf readlink") {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", a)); err != nil {
			return err
		}
	}
	files := map[string]string{
		"etc/passwd":  "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n",
		"etc/group":   "root:x:0:\napp:x:1001:\nextra:x:2000:app\n",
		"bin/noexec":  "#!/bin/sh\n",
		"bin/garbage": "\x00\x01not a program",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return os.Chmod(filepath.Join(dir, "bin/garbage"), 0o755)
}

// proc describes a process.
func proc(id string, args ...string) guestproto.Process {
	return guestproto.Process{ID: id, Spec: specs.Process{Args: args, Cwd: "/"}}
}

// syncBuffer is a buffer for two streams at once.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// run starts the first process.
func (g *guest) run(r guestproto.Run, io agent.IO) *agent.Process {
	g.t.Helper()
	p, err := g.Run(g.t.Context(), r, io)
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

// wait returns how a process ended, within a time no healthy guest exceeds.
func (g *guest) wait(p *agent.Process) guestproto.Exit {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 30*time.Second)
	defer cancel()
	e, err := p.Wait(ctx)
	if err != nil {
		g.t.Fatal(err)
	}
	return e
}

// gone waits until hvinit has ended on its own.
func (g *guest) gone() {
	g.t.Helper()
	done := make(chan error, 1)
	go func() { done <- g.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			g.t.Errorf("hvinit: %v\n%s", err, g.console)
		}
	case <-time.After(30 * time.Second):
		g.t.Error("hvinit did not end")
	}
}

// output runs a command as the first process and returns what it printed.
func output(t *testing.T, r guestproto.Run) (string, guestproto.Exit) {
	t.Helper()
	g := startGuest(t)
	var out syncBuffer
	p := g.run(r, agent.IO{Stdout: &out, Stderr: &out})
	e := g.wait(p)
	g.gone()
	return out.String(), e
}

func TestRunReportsOutputAndExitCode(t *testing.T) {
	g := startGuest(t)
	var out, errs bytes.Buffer
	p := g.run(guestproto.Run{Process: proc("main", "sh", "-c", "echo out; echo err >&2; exit 7")}, agent.IO{Stdout: &out, Stderr: &errs})
	if e := g.wait(p); e.Status() != 7 || out.String() != "out\n" || errs.String() != "err\n" {
		t.Errorf("exit %+v, stdout %q, stderr %q", e, out.String(), errs.String())
	}
	g.gone()
}

func TestWorkloadLooksLikeAContainer(t *testing.T) {
	script := `echo pid=$$
echo $(ps | wc -l) processes
hostname
cat /etc/hostname
grep -c web /etc/hosts
pwd
ls /dev | tr '\n' ' '; echo
readlink /dev/fd
echo hello > /dev/null && echo null works
echo via stdout > /dev/stdout
touch /written && echo root is writable
cat /proc/sys/kernel/hostname
`
	out, e := output(t, guestproto.Run{
		Process:  proc("main", "sh", "-c", strings.ReplaceAll(script, "tr ", "busybox tr ")),
		Hostname: "web",
		Network:  nil,
	})
	_ = e
	want := []string{
		"pid=1\n", "web\nweb\n1\n", "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
		"/proc/self/fd", "null works", "via stdout", "root is writable",
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("output lacks %q:\n%s", w, out)
		}
	}
}

func TestExitCodesAreThoseOfContainers(t *testing.T) {
	tests := []struct {
		name string
		args []string
		code int
		msg  string
	}{
		{"not on the path", []string{"nosuchthing"}, 127, `exec: "nosuchthing": executable file not found in $PATH`},
		{"no such file", []string{"/nope"}, 127, `exec: "/nope": stat /nope: no such file or directory`},
		{"not executable", []string{"/bin/noexec"}, 126, `exec: "/bin/noexec": permission denied`},
		{"a directory", []string{"/etc"}, 126, `exec: "/etc": permission denied`},
		{"not a program", []string{"/bin/garbage"}, 126, `exec: "/bin/garbage": exec format error`},
		{"no command", nil, 127, "no command given, and the image has none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := startGuest(t)
			_, err := g.Run(t.Context(), guestproto.Run{Process: proc("main", tt.args...)}, agent.IO{})
			var se *agent.StartError
			if !errors.As(err, &se) || se.ExitCode != tt.code || se.Message != tt.msg {
				t.Errorf("got %v (%#v), want code %d and %q", err, err, tt.code, tt.msg)
			}
		})
	}
}

func TestSignalEndsProcessWith128PlusN(t *testing.T) {
	g := startGuest(t)
	r, w := io.Pipe()
	p := g.run(guestproto.Run{Process: proc("main", "sh", "-c", "trap 'echo got term; exit 3' TERM; echo ready; while :; do sleep 0.05; done")}, agent.IO{Stdout: w})
	readLine(t, r, "ready")
	sub, err := g.Exec(t.Context(), proc("sub", "sleep", "1000"), agent.IO{})
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.Signal(t.Context(), int(syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	if e := g.wait(sub); e.Signal != 9 || e.Status() != 137 {
		t.Errorf("killed process: %+v", e)
	}
	if err := sub.Signal(t.Context(), 15); !errors.Is(err, agent.ErrNoProcess) {
		t.Errorf("signal after the end: %v", err)
	}
	go func() { _ = p.Signal(t.Context(), int(syscall.SIGTERM)) }()
	readLine(t, r, "got term")
	if e := g.wait(p); e.Status() != 3 {
		t.Errorf("trapping process: %+v", e)
	}
	g.gone()
}

func readLine(t *testing.T, r io.Reader, want string) {
	t.Helper()
	var line []byte
	var b [1]byte
	for {
		if _, err := r.Read(b[:]); err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	if got := strings.TrimRight(string(line), "\r"); got != want {
		t.Fatalf("read %q, want %q", got, want)
	}
}

func TestLargeStreamsArriveWhole(t *testing.T) {
	g := startGuest(t)
	in := bytes.Repeat([]byte("0123456789abcdef"), 512<<10) // 8 MiB
	var out bytes.Buffer
	p := g.run(guestproto.Run{Process: proc("main", "cat")}, agent.IO{Stdin: bytes.NewReader(in), Stdout: &out})
	if e := g.wait(p); e.Status() != 0 || !bytes.Equal(out.Bytes(), in) {
		t.Errorf("exit %+v, %d of %d bytes came back", e, out.Len(), len(in))
	}
	g.gone()
}

func TestExecJoinsTheWorkload(t *testing.T) {
	g := startGuest(t)
	p := g.run(guestproto.Run{Process: proc("main", "sleep", "1000")}, agent.IO{})
	var out syncBuffer
	pr := proc("x", "sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '; test $$ -ne 1 && echo; id; env; pwd; exit 5")
	pr.Spec.Args[2] = strings.ReplaceAll(pr.Spec.Args[2], "tr ", "busybox tr ")
	pr.User, pr.Spec.Cwd = "app", "/home/app"
	x, err := g.Exec(t.Context(), pr, agent.IO{Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	if e := g.wait(x); e.Status() != 5 {
		t.Errorf("exit %+v", e)
	}
	for _, w := range []string{"sleep 1000", "uid=1000(app) gid=1001(app) groups=1001(app),2000(extra)", "HOME=/home/app\n", "PATH=/usr/local/sbin", "\n/home/app\n"} {
		if !strings.Contains(out.String(), w) {
			t.Errorf("output lacks %q:\n%s", w, out.String())
		}
	}
	pr = proc("y", "true")
	pr.Spec.Cwd = "/missing"
	var se *agent.StartError
	if _, err := g.Exec(t.Context(), pr, agent.IO{}); !errors.As(err, &se) || se.ExitCode != 127 {
		t.Errorf("exec in a missing directory: %v", err)
	}
	pr = proc("z", "true")
	pr.User = "nobody-here"
	if _, err := g.Exec(t.Context(), pr, agent.IO{}); !errors.As(err, &se) || se.ExitCode != 125 {
		t.Errorf("exec as an unknown user: %v", err)
	}
	if err := g.Shutdown(t.Context(), int(syscall.SIGKILL), time.Second); err != nil {
		t.Fatal(err)
	}
	if e := g.wait(p); e.Signal != 9 {
		t.Errorf("main: %+v", e)
	}
	g.gone()
}

func TestTerminal(t *testing.T) {
	g := startGuest(t)
	in, keys := io.Pipe()
	screen, w := io.Pipe()
	r := guestproto.Run{Process: proc("main", "sh", "-c", "tty; stty size; read x; echo got $x; stty size; test -c /dev/console && echo console; cat; exit 4")}
	r.Process.Spec.Terminal = true
	r.Process.Spec.ConsoleSize = &specs.Box{Width: 100, Height: 40}
	p := g.run(r, agent.IO{Stdin: in, Stdout: w})
	readLine(t, screen, "/dev/pts/0")
	readLine(t, screen, "40 100")
	if err := p.Resize(t.Context(), 80, 25); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = keys.Write([]byte("hi\n")) }()
	readLine(t, screen, "hi") // the terminal's echo
	readLine(t, screen, "got hi")
	readLine(t, screen, "25 80")
	readLine(t, screen, "console")
	if err := p.CloseStdin(t.Context()); err != nil { // ends cat
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, screen) }()
	if e := g.wait(p); e.Status() != 4 {
		t.Errorf("exit %+v", e)
	}
	keys.Close()
	g.gone()
}

func TestProcessSettingsAreApplied(t *testing.T) {
	// What PID 1 inherited must not reach the workload.
	signal.Ignore(syscall.SIGTSTP)
	t.Cleanup(func() { signal.Reset(syscall.SIGTSTP) })
	caps := []string{"CAP_CHOWN", "CAP_KILL"}
	adj := 500
	umask := uint32(0o077)
	r := guestproto.Run{Process: proc("main", "sh", "-c",
		"grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|SigBlk|SigIgn' /proc/self/status; cat /proc/self/oom_score_adj; ulimit -n; ulimit -c; umask; ls /proc/self/fd | wc -l; cat /proc/sys/net/ipv4/ip_forward")}
	r.Process.Spec.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	r.Process.Spec.NoNewPrivileges = true
	r.Process.Spec.OOMScoreAdj = &adj
	r.Process.Spec.User.Umask = &umask
	r.Process.Spec.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 99, Hard: 100}, {Type: "RLIMIT_CORE"}}
	r.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	out, e := output(t, r)
	const mask = "0000000000000021"
	for _, w := range []string{
		"CapInh:\t0000000000000000", "CapPrm:\t" + mask, "CapEff:\t" + mask, "CapBnd:\t" + mask, "CapAmb:\t0000000000000000",
		"NoNewPrivs:\t1", "SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "\n500\n99\n0\n0077\n4\n1\n",
	} {
		if !strings.Contains(out, w) {
			t.Errorf("output lacks %q (exit %+v):\n%s", w, e, out)
		}
	}
}

func TestOrphansAreReapedAndDescendantsEndWithTheWorkload(t *testing.T) {
	g := startGuest(t)
	r, w := io.Pipe()
	run := guestproto.Run{Init: true, Process: proc("main", "sh", "-c", "(sh -c 'sleep 0.01 & exec true' &); sleep 0.3; cat /proc/[0-9]*/stat | grep -c ') Z '; sleep 1000 & echo done; read x")}
	in, end := io.Pipe()
	p := g.run(run, agent.IO{Stdin: in, Stdout: w})
	readLine(t, r, "0")
	readLine(t, r, "done")
	end.Close()
	go func() { _, _ = io.Copy(io.Discard, r) }()
	g.wait(p)
	g.gone()
}

func TestSessionReconnects(t *testing.T) {
	g := startGuest(t)
	var out bytes.Buffer
	p := g.run(guestproto.Run{KeepAlive: true, Process: proc("main", "sh", "-c", "echo before; read x; echo after $x; exit 6")}, agent.IO{Stdout: &out, Stdin: neverEnding(t)})
	_ = p
	// The host process goes away, and another one takes over.
	g.cancel()
	<-g.served
	g.transport.Close()
	for _, port := range []int{guestproto.ControlPort, guestproto.StreamPort} {
		_ = os.Remove(filepath.Join(g.dir, fmt.Sprint(port)))
	}
	g.transport = newUnixTransport(t, g.dir)
	g.connect()
	hello, err := g.Ready(t.Context())
	if err != nil || !hello.Running || len(hello.Processes) != 1 || hello.Processes[0].ID != "main" {
		t.Fatalf("hello %+v, %v", hello, err)
	}
	var again bytes.Buffer
	p, err = g.Attach(t.Context(), "main", agent.IO{Stdin: strings.NewReader("you\n"), Stdout: &again})
	if err != nil {
		t.Fatal(err)
	}
	if e := g.wait(p); e.Status() != 6 || !strings.Contains(again.String(), "after you\n") {
		t.Errorf("exit %+v, output after attaching %q", e, again.String())
	}
	if _, err := g.Ping(t.Context()); err != nil {
		t.Errorf("the guest was to stay alive: %v", err)
	}
	if err := g.Shutdown(t.Context(), 0, time.Second); err != nil {
		t.Fatal(err)
	}
	g.gone()
}

// neverEnding is an input that has nothing to say until the test is over.
func neverEnding(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return r
}

func TestBeatMeasuresWhatTheGuestMisses(t *testing.T) {
	g := startGuest(t)
	if d, err := g.Beat(t.Context(), true); err != nil || d != 0 {
		t.Fatalf("a gap of %v before it began, %v", d, err)
	}
	for end := time.Now().Add(time.Minute); ; {
		d, err := g.Beat(t.Context(), true)
		if err != nil || time.Now().After(end) {
			t.Fatalf("no gap was seen: %v", err)
		}
		if d > 0 {
			break
		}
	}
	if _, err := g.Beat(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if d, err := g.Beat(t.Context(), false); err != nil || d != 0 {
		t.Errorf("a gap of %v after it ended, %v", d, err)
	}
}

func TestStatsAndPing(t *testing.T) {
	g := startGuest(t)
	g.run(guestproto.Run{Process: proc("main", "sleep", "1000")}, agent.IO{})
	s, err := g.Stats(t.Context())
	if err != nil || s.TotalBytes == 0 || s.AvailableBytes == 0 || s.UptimeNs == 0 {
		t.Errorf("stats %+v, %v", s, err)
	}
	if _, err := g.Run(t.Context(), guestproto.Run{Process: proc("again", "true")}, agent.IO{}); !errors.Is(err, agent.ErrState) {
		t.Errorf("second run: %v", err)
	}
	if err := g.Freeze(t.Context()); err != nil {
		t.Error(err)
	}
	if err := g.Freeze(t.Context()); !errors.Is(err, agent.ErrState) {
		t.Errorf("second freeze: %v", err)
	}
	if err := g.Thaw(t.Context()); err != nil {
		t.Error(err)
	}
	if err := g.Reseed(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestACopiedGuestBecomesAnother(t *testing.T) {
	g := startGuest(t)
	if err := g.Identify(t.Context(), "copy", nil); !errors.Is(err, agent.ErrState) {
		t.Errorf("before run: %v", err)
	}
	g.run(guestproto.Run{Hostname: "original", Process: proc("main", "sleep", "1000")}, agent.IO{})
	if err := g.Identify(t.Context(), "copy", &guestproto.Network{Hosts: []guestproto.Host{{Address: "10.1.2.3", Names: []string{"peer"}}}}); err != nil {
		t.Fatal(err)
	}
	var out syncBuffer
	p, err := g.Exec(t.Context(), proc("look", "sh", "-c", "hostname; cat /etc/hostname; grep -c original /etc/hosts; grep peer /etc/hosts; echo $HOSTNAME"), agent.IO{Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	g.wait(p)
	if got := strings.Fields(out.String()); !slices.Equal(got, []string{"copy", "copy", "0", "10.1.2.3", "peer", "copy"}) {
		t.Errorf("the guest says %q", got)
	}
}

func TestManyExecsLeakNothing(t *testing.T) {
	g := startGuest(t)
	g.run(guestproto.Run{Process: proc("main", "sleep", "1000")}, agent.IO{})
	fds := func() int {
		l, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	var before int
	for i := range 100 {
		var out syncBuffer
		p, err := g.Exec(t.Context(), proc(fmt.Sprint("e", i), "echo", fmt.Sprint(i)), agent.IO{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out})
		if err != nil {
			t.Fatal(err)
		}
		if e := g.wait(p); e.Status() != 0 || out.String() != fmt.Sprintln(i) {
			t.Fatalf("exec %d: %+v %q", i, e, out.String())
		}
		if i == 10 {
			before = fds()
		}
	}
	if after := fds(); after > before+4 {
		t.Errorf("hvinit had %d descriptors after 10 execs and %d after 100", before, after)
	}
}
