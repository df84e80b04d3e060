package workloadtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// limitedBackend is a fake whose owners live in a cgroup, as VMs do.
type limitedBackend struct {
	fakeBackend
	required bool
	limits   specs.LinuxResources
}

func (b limitedBackend) OwnerLimits(*workload.Config) (*specs.LinuxResources, bool) {
	return &b.limits, b.required
}

// newLimited is a workbench for one instance in a group below a parent that no
// other test has.
func newLimited(t *testing.T, b limitedBackend) (bench, func(*workload.Config)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	s, err := instance.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	parent := fmt.Sprintf("/hvctl-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	t.Cleanup(func() {
		if g, err := cgroup.Open(parent); err == nil {
			if err := g.Delete(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	target := Target{Backend: b, Config: func(*testing.T) *workload.Config { return &workload.Config{} }}
	return bench{T: t, ctx: ctx, target: target, store: s}, func(c *workload.Config) { c.Res.CgroupParent, c.OpenStdin = parent, true }
}

// groupOf is the cgroup of an instance.
func groupOf(t *testing.T, h *launch.Handle) *cgroup.Group {
	t.Helper()
	if h.Group() == "" {
		t.Fatal("no cgroup is noted")
	}
	g, err := cgroup.Open(h.Group())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestOwnerLivesAndDiesInItsGroup(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	n := int64(333)
	b, in := newLimited(t, limitedBackend{required: true, limits: specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &n}}})
	h, r := b.mustStart(in, "sh", "-c", "read x")
	g := groupOf(t, h)
	pids, err := g.Procs()
	if err != nil || !slices.Contains(pids, r.PID()) || len(pids) < 2 {
		t.Errorf("processes %v, %v; want the owner, %d, and its child", pids, err, r.PID())
	}
	if s, err := g.Stats(); err != nil || s.PIDs.Limit != 333 {
		t.Errorf("limit %d, %v", s.PIDs.Limit, err)
	}
	st, err := h.Stats(b.ctx)
	if err != nil || st.Cgroup == nil || st.Cgroup.Path != g.String() || st.Cgroup.Tasks < 2 || st.Cgroup.CPUNanoseconds == 0 {
		t.Errorf("stats %+v, %v", st.Cgroup, err)
	}
	if code, _, _ := b.finish(r, "\n"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if g.Exists() || h.Group() != "" {
		t.Errorf("after the end: group exists %v, noted %q", g.Exists(), h.Group())
	}
}

func TestUpdateChangesTheGroup(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	b, in := newLimited(t, limitedBackend{required: true})
	h, r := b.mustStart(in, "sh", "-c", "read x")
	if err := h.Update(b.ctx, workload.Update{CPUs: new(0.25), CPUWeight: new(uint64(200))}); err != nil {
		t.Fatal(err)
	}
	g := groupOf(t, h)
	files := map[string]string{"cpu.weight": "200", "cpu.max": "25000 100000"}
	if g.Mode() != cgroup.V2 {
		files = map[string]string{"cpu.shares": fmt.Sprint(cgroup.SharesFromWeight(200)), "cpu.cfs_quota_us": "25000"}
	}
	// What is refused inside leaves the group as it is.
	if err := h.Update(b.ctx, workload.Update{CPUWeight: new(uint64(300)), PIDs: new(int64(mostPIDs + 1))}); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too many processes: %v", err)
	}
	dir := g.Paths()["cpu"]
	if dir == "" {
		dir = g.Paths()[""]
	}
	for f, want := range files {
		text, err := os.ReadFile(dir + "/" + f)
		if got := strings.TrimSpace(string(text)); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", f, got, err, want)
		}
	}
	if err := h.Update(b.ctx, workload.Update{PIDs: new(int64(20))}); err != nil {
		t.Error(err)
	}
	if st, err := h.State(b.ctx); err != nil || st.Limits == nil || st.Limits.CPUs != 0.25 || st.Limits.CPUWeight != 200 || st.Limits.PIDs != 20 {
		t.Errorf("limits in the state: %+v, %v", st.Limits, err)
	}
	if err := h.Update(b.ctx, workload.Update{MemoryBytes: new(uint64(1 << 30))}); !errors.Is(err, workload.ErrUnsupported) {
		t.Errorf("memory: %v", err)
	}
	if err := h.Update(b.ctx, workload.Update{}); err == nil {
		t.Error("nothing to change was no error")
	}
	b.finish(r, "\n")
	if err := h.Update(b.ctx, workload.Update{CPUWeight: new(uint64(1))}); !errors.Is(err, workload.ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
}

func TestGroupOfAKilledOwnerIsSwept(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	for _, how := range []string{"the next command", "rm", "rm -f of a living one", "the same name again"} {
		t.Run(how, func(t *testing.T) {
			b, in := newLimited(t, limitedBackend{required: true})
			h, r := b.mustStart(in, "sh", "-c", "sleep 1000 & read x")
			g := groupOf(t, h)
			if err := launch.Sweep(b.ctx, b.store); err != nil || !g.Exists() {
				t.Fatalf("the group of a living instance was swept: %v", err)
			}
			if how == "rm -f of a living one" {
				if err := h.ForceDelete(b.ctx); err != nil {
					t.Fatal(err)
				}
			} else {
				if err := unix.Kill(r.PID(), unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				r.WaitOwner(10 * time.Second)
				if pids, err := g.Procs(); err != nil || len(pids) == 0 {
					t.Fatalf("processes %v, %v: what the owner left should still run", pids, err)
				}
			}
			switch how {
			case "the next command":
				if err := launch.Sweep(b.ctx, b.store); err != nil {
					t.Fatal(err)
				}
			case "rm":
				if err := h.Delete(b.ctx); err != nil {
					t.Fatal(err)
				}
			case "the same name again":
				i, err := b.store.Create(&workload.Config{Name: h.Name(), Spec: h.Config().Spec}, instance.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				defer i.Unlock()
				if err := launch.Sweep(b.ctx, b.store); err != nil {
					t.Fatal(err)
				}
			}
			if g.Exists() || h.Group() != "" {
				t.Errorf("group exists %v, noted %q", g.Exists(), h.Group())
			}
		})
	}
}

// Who removes an instance by force waits for another command that starts or removes it,
// and has no owner to kill yet.
func TestForceWaitsForAnotherCommand(t *testing.T) {
	s, err := instance.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	held, err := s.Create(&workload.Config{Name: "held", Spec: &specs.Spec{}}, instance.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	i, err := s.Open("held")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- launch.NewHandle(i, nil).ForceDelete(t.Context()) }()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	held.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := s.Open("held"); !errors.Is(err, instance.ErrNotFound) {
		t.Errorf("after that: %v", err)
	}
}

func TestStartThatFailsLeavesNoGroup(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	for _, step := range []string{"new", "start", "error"} {
		t.Run(step, func(t *testing.T) {
			b, in := newLimited(t, limitedBackend{required: true})
			h, _, err := b.start(func(c *workload.Config) {
				in(c)
				env := DieAt + "=" + step
				if step == "error" {
					env = FailStart + "=no"
				}
				c.Spec.Process.Env = append(c.Spec.Process.Env, env)
			}, "true")
			if err == nil {
				t.Fatal("it started")
			}
			path, perr := cgroup.JoinPath(h.Config().Res.CgroupParent, "fake-"+h.ID())
			if perr != nil {
				t.Fatal(perr)
			}
			if g, err := cgroup.Open(path); !errors.Is(err, cgroup.ErrNotFound) {
				t.Errorf("group %v, %v", g, err)
			}
			if h.Group() != "" {
				t.Errorf("noted %q", h.Group())
			}
		})
	}
}

func TestGroupThatCannotBeMade(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	bad := specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}}
	b, in := newLimited(t, limitedBackend{required: true, limits: bad})
	if _, _, err := b.start(in, "true"); !errors.Is(err, cgroup.ErrValue) || !strings.Contains(err.Error(), "cpu.cpus") {
		t.Errorf("with a limit that was asked for: %v", err)
	}
	b, in = newLimited(t, limitedBackend{limits: bad})
	h, r := b.mustStart(in, "sh", "-c", "read x")
	if h.Group() != "" {
		t.Errorf("noted %q", h.Group())
	}
	if st, err := h.Stats(b.ctx); err != nil || st.Cgroup != nil {
		t.Errorf("stats %+v, %v", st.Cgroup, err)
	}
	if err := h.Update(b.ctx, workload.Update{CPUWeight: new(uint64(5))}); !errors.Is(err, workload.ErrUnsupported) {
		t.Errorf("update: %v", err)
	}
	if code, _, _ := b.finish(r, "\n"); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
