package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var background = context.Background()

func TestGroupHoldsAProcessAndGoes(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	g := newGroup(t, Options{Resources: &specs.LinuxResources{
		Pids:   &specs.LinuxPids{Limit: new(int64(50))},
		Memory: &specs.LinuxMemory{Limit: new(int64(256 << 20))},
		CPU:    &specs.LinuxCPU{Shares: new(uint64(512)), Quota: new(int64(50000)), Period: new(uint64(100000))},
	}})
	h := start(t, g, "spin")
	h.goOn(t)
	pids, err := g.Procs()
	if err != nil || !slices.Contains(pids, h.Process.Pid) {
		t.Fatalf("processes %v, %v; want %d", pids, err, h.Process.Pid)
	}
	b, err := os.ReadFile(filepath.Join("/proc", "self", "cgroup"))
	if err != nil || strings.Contains(string(b), g.String()+"\n") {
		t.Errorf("we are in the group: %q, %v", b, err)
	}
	waitFor(t, func() bool { s, _ := g.Stats(); return s.CPU.Usage > 0 })
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	// Memory may be 0: on v1 a process that is moved leaves its pages behind.
	if g.Mode() == V2 && s.Memory.Usage == 0 || s.PIDs.Current == 0 || s.Memory.Limit != 256<<20 || s.PIDs.Limit != 50 {
		t.Errorf("stats: %+v", s)
	}
	if err := g.Set(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(60))}}, nil); err != nil {
		t.Fatal(err)
	}
	if s, _ := g.Stats(); s.PIDs.Limit != 60 {
		t.Errorf("pids limit after an update: %d", s.PIDs.Limit)
	}
	again, err := Load(g.Paths())
	if err != nil || again.String() != g.String() {
		t.Fatalf("Load: %v, %v", again, err)
	}
	if err := again.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.Wait(); err == nil {
		t.Error("the helper was not killed")
	}
	if err := again.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if g.Exists() {
		t.Error("it still exists")
	}
	if _, err := g.Procs(); !errors.Is(err, ErrNotFound) {
		t.Errorf("Procs: %v", err)
	}
	if _, err := g.Stats(); !errors.Is(err, ErrNotFound) {
		t.Errorf("Stats: %v", err)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Errorf("Kill: %v", err)
	}
	if err := g.Delete(t.Context()); err != nil {
		t.Errorf("Delete: %v", err)
	}
}

// TestProcessEntersByItself: by its doors a process gets into every hierarchy
// that it was not born in.
func TestProcessEntersByItself(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup, testenv.Busybox)
	for _, all := range []bool{false, true} {
		t.Run(fmt.Sprintf("all=%v", all), func(t *testing.T) {
			g := newGroup(t, Options{})
			doors, err := g.Doors(all)
			if err != nil {
				t.Fatal(err)
			}
			// A shell is one thread, and echo a part of it.
			script := "for i; do echo 0 >&$i; done; echo ready; read x"
			c := exec.Command("busybox", "sh", "-c", script, "sh")
			for i := range doors {
				c.Args = append(c.Args, strconv.Itoa(3+i))
			}
			c.ExtraFiles = doors
			in, _ := c.StdinPipe()
			out, _ := c.StdoutPipe()
			c.Stderr = os.Stderr
			if f, err := g.File(); err != nil {
				t.Fatal(err)
			} else if f != nil && !all {
				defer f.Close()
				c.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			for _, f := range doors {
				f.Close()
			}
			if l, err := bufio.NewReader(out).ReadString('\n'); err != nil {
				t.Fatalf("%q, %v", l, err)
			}
			for c2, dir := range g.Paths() {
				if got, err := read(dir, "cgroup.procs"); err != nil || strings.TrimSpace(got) != strconv.Itoa(c.Process.Pid) {
					t.Errorf("hierarchy %q has %q, %v", c2, got, err)
				}
			}
			in.Close()
			if err := c.Wait(); err != nil {
				t.Log(err) // the shell's code at the end of its input
			}
		})
	}
}

func TestDeleteKillsWhatIsLeft(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	g := newGroup(t, Options{})
	c, err := g.Child("a/b")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range c.dirs {
		if d != "" {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Only hierarchies that need no preparation (a cpuset does): enough to keep
	// the groups busy.
	h := start(t, g, "block")
	if err := g.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.Wait(); err == nil {
		t.Error("the helper was not killed")
	}
	if g.Exists() || c.Exists() {
		t.Error("something is left")
	}
}

func TestFreezeStopsAndThawGoesOn(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	g := newGroup(t, Options{})
	h := start(t, g, "spin")
	h.goOn(t)
	for range 2 {
		if err := g.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		if f, err := g.Frozen(); !f || err != nil {
			t.Fatalf("frozen %v, %v", f, err)
		}
		a, _ := g.Stats()
		time.Sleep(50 * time.Millisecond) // the thing measured: that nothing happens
		b, _ := g.Stats()
		if d := b.CPU.Usage - a.CPU.Usage; d > 2*time.Millisecond {
			t.Errorf("used %v while frozen", d)
		}
		if err := g.Thaw(t.Context()); err != nil {
			t.Fatal(err)
		}
		if f, err := g.Frozen(); f || err != nil {
			t.Fatalf("frozen %v, %v", f, err)
		}
		waitFor(t, func() bool { c, _ := g.Stats(); return c.CPU.Usage > b.CPU.Usage })
	}
	if err := g.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Delete(t.Context()); err != nil { // frozen processes are killed, too
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen within 10 seconds")
		}
	}
}

func TestForkBombEndsAtItsLimit(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	g := newGroup(t, Options{Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(60))}}})
	h := start(t, g, "fork")
	h.goOn(t)
	if l := h.line(t); !strings.HasPrefix(l, "children ") || l == "children 0" {
		t.Errorf("helper says %q", l)
	}
	if s, err := g.Stats(); err != nil || s.PIDs.Current > 60 {
		t.Errorf("%d tasks, %v", s.PIDs.Current, err)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { p, _ := g.Procs(); return len(p) == 0 })
}

func TestMemoryLimitKillsAndIsTold(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	g := newGroup(t, Options{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(64 << 20))}}})
	told := make(chan uint64, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.WatchOOM(ctx, func(n uint64) { told <- n }) }()
	h := start(t, g, "memory")
	h.goOn(t)
	if err := h.Wait(); err == nil {
		t.Fatal("it used a gigabyte under a limit of 64 MiB")
	}
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Error("nobody was told")
	}
	if n, err := g.OOMKills(); n == 0 || err != nil {
		t.Errorf("kills %d, %v", n, err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("WatchOOM: %v", err)
	}
}

func TestDeviceRulesBind(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	devs := func(minors ...int64) []specs.LinuxDeviceCgroup {
		l := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
		for _, m := range minors {
			l = append(l, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(m), Access: "rw"})
		}
		return l
	}
	g := newGroup(t, Options{Resources: &specs.LinuxResources{Devices: devs(3)}})
	try := func(want ...string) {
		t.Helper()
		h := start(t, g, "device", "/dev/null", "/dev/zero")
		h.goOn(t)
		for _, w := range want {
			if l := h.line(t); l != w {
				t.Errorf("got %q, want %q", l, w)
			}
		}
	}
	try("/dev/null <nil>", "/dev/zero operation not permitted")
	if err := g.Set(&specs.LinuxResources{Devices: devs(5)}, nil); err != nil {
		t.Fatal(err)
	}
	try("/dev/null operation not permitted", "/dev/zero <nil>")
	if err := g.Set(&specs.LinuxResources{Devices: devs(3, 5)}, nil); err != nil {
		t.Fatal(err)
	}
	try("/dev/null <nil>", "/dev/zero <nil>")
}

func TestCreateRefusesAGroupInUse(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	g := newGroup(t, Options{})
	p := g.String()
	if _, err := Create(Options{Path: p}); err != nil {
		t.Errorf("an empty group that is left over: %v", err)
	}
	start(t, g, "block")
	if _, err := Create(Options{Path: p}); !errors.Is(err, ErrInUse) {
		t.Errorf("a group with a process: %v", err)
	}
	if _, err := Create(Options{Path: p, Join: true}); err != nil {
		t.Errorf("joining: %v", err)
	}
	if _, err := Open(p); err != nil {
		t.Errorf("opening: %v", err)
	}
}

func TestErrorsNameTheFieldAndLeaveNothing(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	for _, tc := range []struct {
		name string
		r    specs.LinuxResources
		is   error
		says string
	}{
		{"kernel refuses", specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}}, ErrValue, "linux.resources.cpu.cpus"},
		{"no such controller", specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx5_0": {HcaHandles: new(uint32(3))}}}, nil, "linux.resources.rdma"},
		{"bad value", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(-2))}}, ErrValue, "linux.resources.pids.limit"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := testPath()
			g, err := Create(Options{Path: p, Resources: &tc.r})
			if err == nil {
				_ = g.Delete(background)
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tc.says) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("error %v, want %q (%v)", err, tc.says, tc.is)
			}
			t.Log(err)
			if _, err := Open(p); !errors.Is(err, ErrNotFound) {
				t.Errorf("the group is left: %v", err)
			}
		})
	}
}

func TestAddOfAnEndedProcess(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	g := newGroup(t, Options{})
	if err := g.Add(1<<22 - 1); !errors.Is(err, unix.ESRCH) {
		t.Errorf("got %v", err)
	}
}

func TestWithoutPermissionItIsSaid(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	self, err := os.Open("/proc/self/exe") // nobody may not enter the directory it is in
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	c := exec.Command("/proc/self/fd/3", testPath())
	c.ExtraFiles = []*os.File{self}
	c.Env = []string{"HVCTL_CGROUP_TEST=create"}
	c.Dir = "/"
	c.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := c.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "true false ") || !strings.Contains(string(out), "delegated") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestParentWithProcessesIsExplained(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.CgroupV2)
	parent := newGroup(t, Options{})
	start(t, parent, "block")
	_, err := Create(Options{Path: parent.String() + "/child", Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(1 << 30))}}})
	if !errors.Is(err, ErrNoController) || !strings.Contains(err.Error(), "processes of its own") || !strings.Contains(err.Error(), parent.String()) {
		t.Errorf("got %v", err)
	}
	g, err := Create(Options{Path: parent.String() + "/child"}) // without limits it can be had
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestManyAtOnceLeaveNothing(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	parent := testPath()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				g, err := Create(Options{Path: fmt.Sprintf("%s/%d-%d", parent, i, j), Resources: &specs.LinuxResources{
					Memory: &specs.LinuxMemory{Limit: new(int64(1 << 30))}, Pids: &specs.LinuxPids{Limit: new(int64(5))},
				}})
				if err == nil {
					if err = g.Delete(t.Context()); err == nil {
						g.Prune("/") // while others make theirs below the same parent
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := Open(parent); !errors.Is(err, ErrNotFound) {
		t.Errorf("the parent is left: %v", err)
	}
}

// A limit can be raised above, and lowered below, what another one was.
func TestLimitsChangeInAnyOrder(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	g := newGroup(t, Options{})
	for _, mib := range []int64{100, 300, 50, 200} {
		n := mib << 20
		q := mib * 1000
		err := g.Set(&specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &n, Swap: new(n + 1<<20)},
			CPU:    &specs.LinuxCPU{Quota: &q, Period: new(uint64(100000)), Burst: new(uint64(q / 2))},
		}, nil)
		if err != nil {
			t.Fatalf("%d MiB: %v", mib, err)
		}
		if s, err := g.Stats(); err != nil || s.Memory.Limit != uint64(n) || s.Memory.SwapLimit != 1<<20 {
			t.Errorf("limits %d and %d, %v", s.Memory.Limit, s.Memory.SwapLimit, err)
		}
	}
	if err := g.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: new(int64(201 << 20))}}, nil); err != nil {
		t.Errorf("swap alone: %v", err)
	}
	start(t, g, "block")
	err := g.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(1)), CheckBeforeUpdate: new(true)}}, nil)
	if s, _ := g.Stats(); s.Memory.Usage > 1 && !errors.Is(err, ErrValue) {
		t.Errorf("less than is in use: %v", err)
	}
}

func BenchmarkCreateDelete(b *testing.B) {
	testenv.Require(b, testenv.Root, testenv.Cgroup)
	parent := testPath()
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: new(int64(1 << 30))}, Pids: &specs.LinuxPids{Limit: new(int64(50))}, CPU: &specs.LinuxCPU{Shares: new(uint64(1024))},
	}
	for b.Loop() {
		g, err := Create(Options{Path: parent + "/x", Resources: r})
		if err == nil {
			err = g.Delete(b.Context())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if g, err := Open(parent); err == nil {
		_ = g.Delete(background)
	}
}
