package work_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/work"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/workload"
)

// fake ends as told, at the turn that it is asked for.
type fake struct {
	name   string
	output func(run int) string
	exit   int
	runs   int
	before func(run int)
}

func (f *fake) Name() string { return f.name }

func (f *fake) Run(ctx context.Context, j work.Job) (work.Ended, error) {
	f.runs++
	if f.before != nil {
		f.before(f.runs)
	}
	if f.output == nil {
		return work.Ended{}, errors.New("no room")
	}
	_, _ = j.Stdout.Write([]byte(f.output(f.runs)))
	return work.Ended{ID: instance.NewID(), Exit: workload.Exit{Code: f.exit}, Whole: time.Second, Start: time.Millisecond, CPU: time.Second, Peak: 1 << 20}, ctx.Err()
}

func same(int) string { return "out" }

func runAll(ctx context.Context, t *testing.T, p work.Piece, targets ...work.Target) (*result.Result, error) {
	t.Helper()
	r := &result.Result{Seed: 1, Plan: result.Plan{Copy: "base'", Blocks: 2}}
	saves := 0
	err := work.Run(ctx, work.Options{
		Chapter: "workload", Targets: targets, Pieces: []work.Piece{p},
		Progress: func(int, int, string, time.Duration) {}, Save: func() error { saves++; return nil },
	}, r)
	if saves == 0 {
		t.Error("nothing was saved")
	}
	return r, err
}

// facts are what targets had for a fact, in order of appearance.
func facts(r *result.Result, target, name string) (v []string) {
	for _, f := range r.Facts {
		if f.Target == target && f.Name == name {
			v = append(v, f.Value)
		}
	}
	return v
}

func TestOutputThatDiffersIsADifferentFact(t *testing.T) {
	base, other := &fake{name: "base", output: same, exit: 3}, &fake{name: "other", exit: 3, output: func(run int) string {
		if run == 2 {
			return "else"
		}
		return "out"
	}}
	r, err := runAll(t.Context(), t, work.Piece{Same: true}, base, other)
	if err != nil {
		t.Fatal(err)
	}
	want := facts(r, "base", "stdout SHA-256")
	got := facts(r, "other", "stdout SHA-256")
	if len(want) != 3 || len(got) != 3 || got[0] != want[0] || got[1] == want[1] || got[2] != want[2] {
		t.Errorf("base %v, other %v", want, got)
	}
	if e := facts(r, "base'", "exit"); len(e) != 3 || e[0] != "3" {
		t.Errorf("exits %v", e)
	}
	k := result.Key{Chapter: "workload", Probe: "memory"}
	if s := r.Good(k, "other"); len(s) != 2 || s[0].Value != 1<<20 || s[0].Unit != result.Bytes {
		t.Errorf("memory: %+v", s)
	}
}

func TestTargetThatFailsIsReported(t *testing.T) {
	r, err := runAll(t.Context(), t, work.Piece{Same: true}, &fake{name: "base", output: same}, &fake{name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if f := r.Failed("other"); len(f) != 3 || !strings.Contains(f[0].Error, "no room") {
		t.Errorf("%+v", f)
	}
}

func TestApplicationThatFailsHasNoFigures(t *testing.T) {
	read := func(b []byte) (map[string]float64, error) { return map[string]float64{"op": float64(len(b))}, nil }
	r, err := runAll(t.Context(), t, work.Piece{Name: "app", Read: read}, &fake{name: "base", output: same}, &fake{name: "other", output: same, exit: 1})
	if err != nil {
		t.Fatal(err)
	}
	k := result.Key{Chapter: "workload", Probe: "app-op"}
	if good := r.Good(k, "base"); len(good) != 2 || good[0].Value != 3 {
		t.Errorf("base: %+v", good)
	}
	if len(r.Good(k, "other")) != 0 || len(r.Failed("other")) != 3 {
		t.Errorf("other: %+v", r.Samples)
	}
}

func TestInterruptedWorkKeepsItsSamples(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := runAll(ctx, t, work.Piece{Same: true}, &fake{name: "base", output: same}, &fake{name: "other", output: same, before: func(run int) {
		if run == 2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || r.Partial == "" || len(r.Samples) == 0 || len(r.Failed("other")) != 0 {
		t.Errorf("%v, partial %q, %+v", err, r.Partial, r.Failed("other"))
	}
}

// targets are those that need nothing but root: the host, and our OCI runtime.
func targets(t *testing.T) []work.Target {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Cgroup, testenv.Busybox, testenv.OCI)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	for _, d := range []string{"bin", "etc", "proc", "dev", "sys", "tmp"} {
		if err := os.Mkdir(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range map[string][]byte{"bin/busybox": b, "etc/passwd": []byte("root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n"), "etc/group": []byte("root:x:0:\nweb:x:33:\n")} {
		if err := os.WriteFile(filepath.Join(tree, name), b, 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sh", "id", "cat", "true"} {
		if err := os.Symlink("/bin/busybox", filepath.Join(tree, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	oci := os.Getenv("HVCTL_OCI")
	if oci == "" {
		oci = filepath.Join(os.Getenv("HVCTL_BIN"), "hvctl-oci")
	}
	dir := t.TempDir()
	return []work.Target{&work.Host{Tree: tree, Dir: filepath.Join(dir, "h")}, &work.OCI{Runtime: oci, Tree: tree, Dir: filepath.Join(dir, "o")}}
}

func configOf(user string, argv ...string) func() (*workload.Config, error) {
	return func() (*workload.Config, error) {
		spec, err := workload.NewSpec(workload.SpecOptions{Args: argv, User: user, Env: []string{"PATH=/bin"}, Hostname: "bench"})
		return &workload.Config{ID: instance.NewID(), Spec: spec, Net: workload.Network{Mode: workload.NetNone}, Res: workload.Resources{CPUs: 1, MemoryBytes: 64 << 20}}, err
	}
}

func TestSameCommandHasSameOutputOnHostAndInContainer(t *testing.T) {
	for _, target := range targets(t) {
		var out, errOut bytes.Buffer
		e, err := target.Run(t.Context(), work.Job{Config: configOf("web", "sh", "-c", "id -u; cat /etc/group; echo wrong >&2; exit 7"), Stdout: &out, Stderr: &errOut})
		if err != nil {
			t.Fatalf("%s: %v", target.Name(), err)
		}
		if e.Exit.Code != 7 || out.String() != "33\nroot:x:0:\nweb:x:33:\n" || errOut.String() != "wrong\n" || e.Whole <= 0 {
			t.Errorf("%s: %+v, %q, %q", target.Name(), e, &out, &errOut)
		}
		if e, err = target.Run(t.Context(), work.Job{Config: configOf("", "nosuch")}); err != nil || e.Exit.Code == 0 {
			t.Errorf("%s: a program that does not exist: %+v, %v", target.Name(), e, err)
		}
	}
}

func TestInterruptedInstanceLeavesNothing(t *testing.T) {
	for _, target := range targets(t) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := target.Run(ctx, work.Job{Config: configOf("", "sh", "-c", "echo on; while :; do :; done"), Stdout: writerFunc(func([]byte) { cancel() })})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", target.Name(), err)
		}
		b, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), t.Name()) {
			t.Errorf("%s: mounts are left:\n%s", target.Name(), b)
		}
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }
