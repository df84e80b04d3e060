package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/confine"
	"github.com/hvctl/hvctl/internal/confine/hostile"
	"github.com/hvctl/hvctl/internal/hostnet"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/machine/microguest"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/workload"
)

// ownedEnv has this program be a VMM that somebody has taken over: it starts a VM
// as hvctl-vmm does, and then tries what hostile.Run does. Its value is the order.
const ownedEnv = "HVCTL_TEST_OWNED"

type ownedOrder struct {
	Dir, Kernel string // where its VM is
	Disk        string // of its VM
	Net         string
	Confine     bool
	Rm          bool
	Target      hostile.Target
}

type ownedAnswer struct {
	ID       string
	Results  []hostile.Result
	Own      []string // of its own that it cannot reach
	NewVMs   []string // descriptors by which it made another VM
	Taps     int      // that it has
	Stay     []string // taps that it made stay
	User     int      // that it is
	Confined *Confined
}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == hostnet.VerbKeep {
		if err := hostnet.Keep(nil, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	order := os.Getenv(ownedEnv)
	if order == "" {
		os.Exit(m.Run())
	}
	a, err := owned(order)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(a)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// config is that of a VM of machine code that counts for ever.
func (o ownedOrder) config() *workload.Config {
	id := filepath.Base(o.Dir)
	return &workload.Config{
		ID: id, Name: "owned", Backend: "vm", DataDir: filepath.Join(filepath.Dir(o.Kernel), id),
		Spec: &specs.Spec{Process: &specs.Process{}},
		Res:  workload.Resources{CPUs: 1, MemoryBytes: 16 << 20},
		VM:   workload.VM{Raw: true, Kernel: o.Kernel, Disks: []workload.Disk{{Path: o.Disk}}},
		Net:  workload.Network{Mode: o.Net}, AutoRemove: o.Rm,
	}
}

func owned(order string) (a ownedAnswer, err error) {
	var o ownedOrder
	if err := json.Unmarshal([]byte(order), &o); err != nil {
		return a, err
	}
	var disk unix.Stat_t
	if err := unix.Stat(o.Disk, &disk); err != nil {
		return a, err
	}
	v := New(o.config(), o.Dir, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if o.Confine {
		v.Confine(confine.Apply)
	}
	if _, err := v.Start(context.Background(), workload.Stdio{}); err != nil {
		return a, err
	}
	a.Confined, a.User = v.confined.Load(), os.Geteuid()
	if o.Rm {
		i, err := instance.OpenDir(o.Dir)
		return a, errors.Join(err, i.Remove(), v.Close())
	}
	a.ID, a.Results = filepath.Base(o.Dir), hostile.Run(o.Target)
	for name, try := range map[string]func() error{
		"its disk":      func() error { return readOpen(disk) },
		"its directory": func() error { return os.WriteFile(filepath.Join(o.Dir, "x"), nil, 0o600) },
		"its console":   func() error { _, err := os.ReadFile(filepath.Join(o.Dir, "console.log")); return err },
		"the host's record of events": func() error {
			i, err := instance.OpenDir(o.Dir)
			if err != nil {
				return err
			}
			return i.AppendEvent([]byte(`{}`))
		},
	} {
		if err := try(); err != nil {
			a.Own = append(a.Own, fmt.Sprintf("%s: %v", name, err))
		}
	}
	for fd := range 200 {
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err == nil && name == "/dev/net/tun" {
			a.Taps++
			if unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1) == nil {
				a.Stay = append(a.Stay, strconv.Itoa(fd))
			}
		}
		if err != nil || name != "/dev/kvm" {
			continue
		}
		vm, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0xae01, 0)
		if errno == 0 {
			a.NewVMs = append(a.NewVMs, strconv.Itoa(fd))
			_ = unix.Close(int(vm))
		}
	}
	return a, v.Close()
}

// readOpen reads a file that is open.
func readOpen(want unix.Stat_t) error {
	for fd := range 200 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Dev == want.Dev && st.Ino == want.Ino {
			_, err := unix.Pread(fd, make([]byte, 512), 0)
			return err
		}
	}
	return os.ErrNotExist
}

// withoutCgo is this test as hvctl-vmm is built: the race detector needs cgo, with
// which Go cannot make a system call on every thread.
func withoutCgo(t *testing.T) string {
	t.Helper()
	b, ok := debug.ReadBuildInfo()
	if !ok || !slices.Contains(b.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "1"}) {
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

// writeInstance leaves what a command would have, and a record of events that is full.
func writeInstance(t *testing.T, o ownedOrder) {
	t.Helper()
	c, err := json.Marshal(o.config())
	if err != nil {
		t.Fatal(err)
	}
	events := instance.PlacesOf(filepath.Dir(o.Dir)).Events
	if err := errors.Join(os.WriteFile(filepath.Join(o.Dir, "config.json"), c, 0o600), os.Mkdir(events, 0o700),
		os.WriteFile(filepath.Join(events, "events.jsonl"), make([]byte, 1<<20+1), 0o600)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		return
	}
	for name, mode := range map[string]os.FileMode{events: 0o710, filepath.Join(events, "events.jsonl"): 0o620} { // as Store.Create leaves it
		if err := errors.Join(os.Chown(name, 0, instance.OwnersGroup), os.Chmod(name, mode)); err != nil {
			t.Fatal(err)
		}
	}
}

// takeOver runs hostile code in the place of a VM's process, beside another VM.
func takeOver(t *testing.T, program, network string, confined bool) ownedAnswer {
	t.Helper()
	dir := t.TempDir()
	o := ownedOrder{Dir: filepath.Join(dir, "root", instance.NewID()), Kernel: filepath.Join(dir, "kernel"), Disk: filepath.Join(dir, "disk"), Net: network, Confine: confined}
	o.Target.Folder = filepath.Join(dir, "root", "other")
	for _, d := range []string{o.Dir, o.Target.Folder} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := microguest.Write(o.Kernel, microguest.Spin...); err != nil {
		t.Fatal(err)
	}
	o.Target.Secret = filepath.Join(o.Target.Folder, "disk")
	for _, f := range []string{o.Disk, o.Target.Secret} {
		if err := os.WriteFile(f, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeInstance(t, o)
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	o.Target.Name = filepath.Base(o.Dir)
	named, err := net.Listen("unix", "@"+o.Target.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer named.Close()
	o.Target.TCP, o.Target.Unix = tcp.Addr().String(), filepath.Join(o.Target.Folder, "s")
	sock, err := net.Listen("unix", o.Target.Unix)
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	other := exec.Command("sleep", "600")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	o.Target.Process = other.Process.Pid
	return runOwned(t, program, o)
}

// runOwned starts the process.
func runOwned(t *testing.T, program string, o ownedOrder) ownedAnswer {
	t.Helper()
	order, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), ownedEnv+"="+string(order))
	if os.Geteuid() == 0 { // as hvctl starts it
		ns, err := confine.MountNamespace()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, instance.MountsEnv+"="+ns)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var a ownedAnswer
	if err := json.NewDecoder(strings.NewReader(string(out))).Decode(&a); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return a
}

// With --rm nothing is left of an instance, though its process is confined; empty directories, where it has a user of its own.
func TestAConfinedVMMRemovesItsInstance(t *testing.T) {
	testenv.Require(t, testenv.KVM)
	dir := t.TempDir()
	o := ownedOrder{
		Dir: filepath.Join(dir, "root", instance.NewID()), Kernel: filepath.Join(dir, "data", "kernel"), Disk: filepath.Join(dir, "disk"),
		Net: workload.NetNone, Confine: true, Rm: true,
	}
	data := o.config().DataDir
	for _, d := range []string{o.Dir, filepath.Join(dir, "root", ".names"), filepath.Join(data, "disks", "of it")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	writeInstance(t, o)
	if err := errors.Join(microguest.Write(o.Kernel, microguest.Spin...), os.WriteFile(o.Disk, make([]byte, 1<<20), 0o600),
		os.WriteFile(filepath.Join(dir, "root", ".lock"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	runOwned(t, withoutCgo(t), o)
	s, err := instance.OpenStore(filepath.Dir(o.Dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(filepath.Base(o.Dir)); !errors.Is(err, instance.ErrNotFound) {
		t.Errorf("it is there: %v", err)
	}
	if err := s.SweepRemoved(); err != nil { // as root, that is for the next command
		t.Error(err)
	}
	for _, pattern := range []string{o.Dir, filepath.Join(dir, "root", ".old-*"), data} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left: %v (%v)", left, err)
		}
	}
}

// Whoever has taken a VMM over, through a device of ours say, holds a process that
// reaches its own VM and nothing else.
func TestAVMMThatWasTakenOverReachesOnlyItsOwn(t *testing.T) {
	testenv.Require(t, testenv.KVM)
	reachesOnlyItsOwn(t, workload.NetNone)
}

// On the bridge, too: what a published port and the end of its network need is
// another process's.
func TestAVMMOnTheBridgeReachesOnlyItsOwn(t *testing.T) {
	testenv.Require(t, testenv.KVM, testenv.Root, testenv.NFTables)
	runtime.LockOSThread() // never unlocked: this thread has a network namespace of its own
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err == nil {
		err = hostnet.Loopback(ns)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	reachesOnlyItsOwn(t, workload.NetBridge)
	left, err := net.Interfaces()
	if err != nil || len(left) != 1 {
		t.Errorf("interfaces left: %v, %v", left, err)
	}
}

func reachesOnlyItsOwn(t *testing.T, network string) {
	t.Helper()
	program := withoutCgo(t)
	free := map[string]bool{}
	naive := takeOver(t, program, network, false)
	for _, r := range naive.Results {
		free[r.Name] = r.Err == ""
	}
	for _, name := range []string{
		"read another VM's disk", "write another VM's disk", "connect to a port of the host", "connect to another program's socket", "connect to another program's socket by its name", "open /dev/kvm",
		"change the host's network", "signal a process", "execute a program", "make an io_uring",
	} {
		if !free[name] {
			t.Errorf("without confinement this does not work, so that the test shows nothing: %s", name)
		}
	}
	if network == workload.NetBridge && (naive.Taps == 0 || len(naive.Stay) == 0) {
		t.Errorf("without confinement no tap can be made to stay, of %d", naive.Taps)
	}
	a := takeOver(t, program, network, true)
	if a.Confined == nil || !a.Confined.Seccomp {
		t.Fatalf("it is not confined: %+v", a.Confined)
	}
	for _, m := range a.Confined.Missing {
		t.Errorf("missing on this host: %s", m)
	}
	if len(a.Confined.Capabilities)+len(a.Confined.Allows) > 0 {
		t.Errorf("it keeps %v, for %v", a.Confined.Capabilities, a.Confined.Allows)
	}
	if a.Confined.Root != (os.Geteuid() == 0) {
		t.Errorf("a root directory of its own: %v", a.Confined.Root)
	}
	if own := instance.UserOf(a.ID); os.Geteuid() == 0 && (a.Confined.User != own || a.User != own) {
		t.Errorf("it is user %d and says that it is %d, not %d", a.User, a.Confined.User, own)
	}
	for _, r := range a.Results {
		if r.Err == "" && (a.Confined.Root || !strings.HasPrefix(r.Name, "see ")) {
			t.Errorf("works: %s", r.Name)
		}
	}
	if len(a.NewVMs) > 0 {
		t.Errorf("other VMs can be made by descriptors %v", a.NewVMs)
	}
	if len(a.Stay) > 0 {
		t.Errorf("taps stay: descriptors %v", a.Stay)
	}
	for _, o := range a.Own {
		t.Errorf("it cannot reach what is its own: %s", o)
	}
}
