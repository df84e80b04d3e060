package confine_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/confine"
	"github.com/hvctl/hvctl/internal/confine/hostile"
	"github.com/hvctl/hvctl/internal/testenv"
)

// childEnv has this program be the process that is attacked from inside.
const childEnv = "HVCTL_TEST_CONFINED"

// order is what the child is told.
type order struct {
	Confine bool
	Policy  confine.Policy
	Target  hostile.Target
	Own     string // a folder it may use
	Mount   string // a directory that it mounts something on first, with the file "inside"
	Look    []string
}

// answer is what it says.
type answer struct {
	Report  confine.Report
	Results []hostile.Result
	Left    []string // what it should be able to do and is not
	Seen    []string // of what it was to look at
	Status  string   // of all its threads, as the kernel tells it
}

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	if err := child(); err != nil {
		_, _ = io.WriteString(os.Stderr, err.Error()+"\n")
		os.Exit(1)
	}
}

func child() error {
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return err
	}
	// Threads that are busy, in the kernel and out of it.
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			runtime.LockOSThread()
			for {
				select {
				case <-stop:
					return
				default:
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	var a answer
	var err error
	if o.Mount != "" {
		if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("test", o.Mount, "tmpfs", 0, ""),
			os.WriteFile(filepath.Join(o.Mount, "inside"), nil, 0o600)); err != nil {
			return err
		}
	}
	if o.Confine {
		if a.Report, err = confine.Apply(o.Policy); err != nil {
			return err
		}
	}
	for _, name := range o.Look {
		if f, err := os.Open(name); err == nil {
			a.Seen = append(a.Seen, name)
			_ = f.Close()
		}
	}
	if o.Own == "" {
		return json.NewEncoder(os.Stdout).Encode(a)
	}
	a.Results = hostile.Run(o.Target)
	a.Left = life(o.Own)
	close(stop)
	wg.Wait()
	a.Status = status()
	return json.NewEncoder(os.Stdout).Encode(a)
}

// life is what a VMM does all day.
func life(own string) (left []string) {
	must := func(what string, err error) {
		if err != nil {
			left = append(left, what+": "+err.Error())
		}
	}
	name := filepath.Join(own, "state.json")
	must("write a file", os.WriteFile(name+".tmp", []byte("{}"), 0o600))
	must("rename it", os.Rename(name+".tmp", name))
	_, err := os.ReadFile(name)
	must("read it", err)
	must("write it anew", os.WriteFile(name, nil, 0o600)) // by O_TRUNC
	must("make a folder", os.MkdirAll(filepath.Join(own, "a", "b"), 0o700))
	must("remove folders", os.RemoveAll(filepath.Join(own, "a")))
	// More threads than there are, the garbage collector, timers.
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			runtime.LockOSThread()
			_ = make([]byte, 1<<20)
			time.Sleep(time.Millisecond)
		})
	}
	wg.Wait()
	runtime.GC()
	r, w, err := os.Pipe()
	must("make a pipe", err)
	if err == nil {
		must("use it", errors.Join(r.SetDeadline(time.Now().Add(time.Second)), w.Close(), r.Close()))
	}
	must("signal ourselves", unix.Kill(os.Getpid(), 0))
	return left
}

// status is what the kernel says of every thread.
func status() string {
	var all strings.Builder
	files, _ := filepath.Glob("/proc/self/task/*/status")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		all.WriteString("\n" + string(b))
	}
	return all.String()
}

// attackChild runs the attacks in a process with the policy; nil: in one without.
func attackChild(t *testing.T, p *confine.Policy) answer {
	t.Helper()
	dir := t.TempDir()
	o := order{Own: filepath.Join(dir, "own"), Target: hostile.Target{Folder: filepath.Join(dir, "other")}}
	for _, d := range []string{o.Own, o.Target.Folder} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	o.Target.Secret = filepath.Join(o.Target.Folder, "disk")
	if err := os.WriteFile(o.Target.Secret, []byte("somebody else's"), 0o600); err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	o.Target.TCP = tcp.Addr().String()
	o.Target.Unix = filepath.Join(o.Target.Folder, "s")
	sock, err := net.Listen("unix", o.Target.Unix)
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	o.Target.Name = filepath.Base(dir)
	named, err := net.Listen("unix", "@"+o.Target.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer named.Close()
	other := exec.Command("sleep", "600")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	o.Target.Process = other.Process.Pid
	if p != nil {
		o.Confine, o.Policy = true, *p
		o.Policy.Gives = []string{o.Own}
		o.Policy.Files = append([]confine.Rule{
			{Path: o.Own, Access: confine.Read | confine.Write | confine.Create},
			{Path: "/proc/self", Access: confine.Read}, // of this process: the child's is another
			{Path: "/missing", Access: confine.Read},
		}, p.Files...)
	}
	return ask(t, o)
}

// ask starts a child with its order.
func ask(t *testing.T, o order) answer {
	t.Helper()
	in, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program(t))
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stdin = strings.NewReader(string(in))
	if o.Policy.Starter != "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var a answer
	if err := json.Unmarshal(out, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// program is this test without cgo, with which Go cannot make a call on every
// thread: the race detector needs it.
func program(t *testing.T) string {
	t.Helper()
	if b, ok := debug.ReadBuildInfo(); !ok || !slices.Contains(b.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "1"}) {
		return "/proc/self/exe"
	}
	name := filepath.Join(t.TempDir(), "test")
	build := exec.Command("go", "test", "-c", "-o", name, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build without cgo: %v\n%s", err, out)
	}
	return name
}

// shown are attacks that have to work in a process that is not confined, or the
// test shows nothing.
var shown = []string{
	"read another VM's disk", "write another VM's disk", "truncate another VM's disk", "list its folder", "leave a file beside it",
	"rename another VM's disk", "connect to a port of the host", "listen on a port of the host", "connect to another program's socket",
	"connect to another program's socket by its name",
	"change the host's network", "signal a process", "signal a process through a pipe", "change a process's limits", "execute a program",
	"unshare", "make memory executable", "see another VM's disk", "see the host's files", "see other processes",
	"see another VM's disk from the working directory",
}

// seen are attacks that only a root directory of its own, and the user that goes with
// it, keep a process from.
var seen = []string{
	"be root",
	"see another VM's disk", "see the host's files", "see other processes", "see another VM's disk from the working directory", "see the host's files through what is open",
}

// here is the mount namespace of this test, for processes that get one of their own.
func here(t *testing.T) string {
	t.Helper()
	ns, err := confine.MountNamespace()
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestHostileCodeReachesNothing(t *testing.T) {
	testenv.Require(t, testenv.Landlock)
	free := map[string]string{}
	for _, r := range attackChild(t, nil).Results {
		free[r.Name] = r.Err
	}
	for _, name := range shown {
		if err, ok := free[name]; !ok || err != "" {
			t.Errorf("the attack does not work where nobody defends: %s: %q", name, err)
		}
	}
	p := &confine.Policy{}
	if os.Geteuid() == 0 {
		p.Starter, p.User = here(t), 0x70001234
	}
	a := attackChild(t, p)
	if a.Report.User != p.User {
		t.Errorf("it is user %d", a.Report.User)
	}
	if a.Report.Root != (p.Starter != "") {
		t.Errorf("a root directory of its own: %v", a.Report.Root)
	}
	for _, m := range a.Report.Missing {
		t.Errorf("not confined: %s", m)
	}
	for _, r := range a.Results {
		switch {
		case r.Err == "" && !a.Report.Root && slices.Contains(seen, r.Name):
		case r.Err == "":
			t.Errorf("works: %s", r.Name)
		case free[r.Name] != "":
			t.Logf("%s: %s (and without us: %s)", r.Name, r.Err, free[r.Name])
		}
	}
	for _, l := range a.Left {
		t.Errorf("should work: %s", l)
	}
	if len(a.Report.Capabilities) > 0 {
		t.Errorf("capabilities are left: %v", a.Report.Capabilities)
	}
}

// What a policy allows is possible, and nothing else.
func TestPolicyOpensOneDoor(t *testing.T) {
	sockets := attackChild(t, &confine.Policy{Sockets: []int{unix.AF_INET}})
	for _, r := range sockets.Results {
		works := r.Name == "connect to a port of the host" || r.Name == "listen on a port of the host"
		if works != (r.Err == "") && !slices.Contains(seen, r.Name) {
			t.Errorf("with sockets: %s: %q", r.Name, r.Err)
		}
	}
	programs := attackChild(t, &confine.Policy{Programs: true, Files: []confine.Rule{{Path: "/", Access: confine.Read | confine.Execute}, {Path: "/dev/null", Access: confine.Write}}})
	for _, r := range programs.Results {
		if r.Name == "execute a program" && r.Err != "" {
			t.Errorf("with programs: %s", r.Err)
		}
		if r.Name == "write another VM's disk" && r.Err == "" {
			t.Error("a rule to read lets write")
		}
	}
}

func TestEveryThreadIsConfined(t *testing.T) {
	a := attackChild(t, &confine.Policy{Files: []confine.Rule{{Path: "/proc", Access: confine.Read}}})
	if n := strings.Count(a.Status, "\nNoNewPrivs:\t1"); n < 2 || n != strings.Count(a.Status, "\nSeccomp:\t2") ||
		n != strings.Count(a.Status, "\nCapEff:\t0000000000000000") || n != strings.Count(a.Status, "\nCapPrm:\t0000000000000000") ||
		n != strings.Count(a.Status, "\nName:") {
		t.Errorf("of the threads not all are confined:\n%s", a.Status)
	}
}
