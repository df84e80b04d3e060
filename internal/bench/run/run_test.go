package run

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/bench/probe"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/workload"
)

// fake runs probes in this process. It fails at its failAt-th instance.
type fake struct {
	t       *testing.T
	name    string
	starts  int
	failAt  int
	living  atomic.Int32
	onStart func(n int)
}

func (f *fake) Name() string { return f.name }

func (f *fake) Start(_ context.Context, j Job) (*Living, error) {
	f.starts++
	if f.onStart != nil {
		f.onStart(f.starts)
	}
	if f.starts == f.failAt {
		return nil, errors.New("no room")
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	o := probe.Options{Dir: f.t.TempDir(), Batches: 1, BatchTime: time.Microsecond}
	if strings.Contains(strings.Join(j.Argv, " "), "-step") {
		o.Step = inR
	}
	f.living.Add(1)
	go func() { _ = outW.CloseWithError(errOr(probe.Run(outW, probe.Select([]string{"cpu"}), o))) }()
	var gone sync.Once
	return &Living{
		ID: strings.Repeat("a", 64), In: inW, Out: outR, begin: time.Now(), running: time.Now(),
		usage: func(context.Context) (Usage, error) { return Usage{CPUNs: 5, Exits: map[string]uint64{"pio": 1}}, nil },
		wait:  func() (workload.Exit, error) { return workload.Exit{}, nil },
		remove: func(context.Context) error { // an interrupted run may remove twice
			gone.Do(func() { f.living.Add(-1) })
			return nil
		},
	}, nil
}

func errOr(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

func options(worlds ...World) Options {
	return Options{Worlds: worlds, BatchTime: time.Microsecond, Progress: func(int, int, string, time.Duration) {}, Save: func() error { return nil }, Announce: func(time.Duration) {}, Pin: func(bool) error { return nil }}
}

func plan(targets ...string) *result.Result {
	return &result.Result{Seed: 1, Plan: result.Plan{Targets: targets, Copy: targets[0] + "'", Chapters: []string{"cpu"}, Blocks: 2, Batches: 1}}
}

func TestEveryTargetRunsInEveryBlockAndIsRemoved(t *testing.T) {
	host, vm := &fake{t: t, name: "host"}, &fake{t: t, name: "vm"}
	r := plan("host", "vm")
	if err := Run(t.Context(), options(host, vm), r); err != nil {
		t.Fatal(err)
	}
	if host.living.Load() != 0 || vm.living.Load() != 0 || vm.starts != 5 || host.starts != 9 { // two to warm up, one to calibrate
		t.Errorf("host %+v, vm %+v", host, vm)
	}
	k := result.Key{Chapter: "cpu", Probe: "sha256"}
	for _, name := range []string{"host", "host'", "vm"} {
		if got := r.Good(k, name); len(got) != 2 || got[0].Value <= 0 || got[0].HostNs == 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestFailedInstanceIsReported(t *testing.T) {
	vm := &fake{t: t, name: "vm", failAt: 4}
	r := plan("host", "vm")
	if err := Run(t.Context(), options(&fake{t: t, name: "host"}, vm), r); err != nil {
		t.Fatal(err)
	}
	if f := r.Failed("vm"); len(f) != 1 || !strings.Contains(f[0].Error, "no room") {
		t.Errorf("%+v", f)
	}
}

func TestInterruptedRunKeepsItsSamples(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	vm := &fake{t: t, name: "vm", onStart: func(n int) {
		if n == 4 {
			cancel()
		}
	}}
	host := &fake{t: t, name: "host"}
	r := plan("host", "vm")
	if err := Run(ctx, options(host, vm), r); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if r.Partial == "" || len(r.Samples) == 0 || len(r.Failed("vm")) != 0 {
		t.Errorf("partial %q, %d samples, failed %+v", r.Partial, len(r.Samples), r.Failed("vm"))
	}
}
