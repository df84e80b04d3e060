package run

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/bench/result"
)

// small is a run of one chapter with as little as possible of everything.
func small(chapter string, worlds ...World) (Options, *result.Result) {
	r := plan("host", "vm")
	r.Plan.Chapters, r.Env = []string{chapter}, map[string]string{}
	o := options(worlds...)
	o.Network, o.Disk = true, func() (*Disk, error) { return &Disk{Device{"/dev/null", 1, 3}, io.NopCloser(nil)}, nil }
	o.Starts, o.ControlTime, o.ControlBlocks, o.Crowd, o.Moves = 2, time.Millisecond, 1, 3, 2
	return o, r
}

func TestEveryChapterMeasuresEveryTarget(t *testing.T) {
	for chapter, count := range map[string]func(r *result.Result, target string) int{
		"equiv": func(r *result.Result, t string) int {
			return len(pick(r.Facts, func(f result.Fact) bool { return f.Target == t && f.Error == "" }))
		},
		"density": func(r *result.Result, t string) int {
			return len(pick(r.Density, func(c result.Crowd) bool { return c.Target == t && c.Error == "" && c.Available > 0 }))
		},
		"iso": func(r *result.Result, t string) int {
			return len(pick(r.Controls, func(c result.Control) bool { return c.Target == t && c.Error == "" }))
		},
	} {
		t.Run(chapter, func(t *testing.T) {
			host, vm := &canned{name: "host", say: sees}, &canned{name: "vm", say: sees}
			o, r := small(chapter, host, vm)
			if err := Run(t.Context(), o, r); err != nil {
				t.Fatal(err)
			}
			want := map[string]int{"equiv": 2*len(looks(false)) + 1, "density": 3, "mig": 3, "iso": len(promises(o))}[chapter]
			onBridge := len(pick(promises(o), func(p promise) bool { return p.owns }))
			for _, target := range r.Plan.Targets {
				want := want
				if chapter == "iso" && target == "host" { // it has the host's network
					want -= onBridge
				}
				if n := count(r, target); n != want {
					t.Errorf("%s: %d records, want %d: %+v", target, n, want, r)
				}
			}
			if host.living.Load() != 0 || vm.living.Load() != 0 {
				t.Error("instances are left")
			}
		})
	}
}

func pick[T any](all []T, want func(T) bool) (out []T) {
	for _, v := range all {
		if want(v) {
			out = append(out, v)
		}
	}
	return out
}

func TestLivesHaveAllStages(t *testing.T) {
	o, r := small("life", &canned{name: "host", say: sees}, &canned{name: "vm", say: sees})
	if err := starts(t.Context(), o, r); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"host", "host'", "vm"} {
		for _, probe := range []string{"create", "start", "first", "total", "end", "delete", "cold-total"} {
			if n := len(r.Good(result.Key{Chapter: "lifecycle", Probe: probe}, target)); n != 2 {
				t.Errorf("%s %s: %d samples: %+v", target, probe, n, r.Failed(target))
			}
		}
	}
}

// An interrupt at the third instance of a chapter leaves what was finished, says
// that the run is partial, and leaves no instance.
func TestInterruptedChapterIsPartialAndLeavesNothing(t *testing.T) {
	for _, chapter := range []string{"equiv", "density", "iso", "mig"} {
		t.Run(chapter, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			why := errors.New("interrupted")
			host, vm := &canned{name: "host", say: sees}, &canned{name: "vm", say: sees}
			host.onStart = func(n int32) {
				if n == 2+3 { // two warm up
					cancel(why)
				}
			}
			o, r := small(chapter, host, vm)
			if err := Run(ctx, o, r); !errors.Is(err, why) || r.Partial != "interrupted in the chapter "+chapter {
				t.Fatalf("%v, partial %q", err, r.Partial)
			}
			if len(r.Facts)+len(r.Density)+len(r.Controls)+len(r.Moves) == 0 {
				t.Error("nothing was kept")
			}
			if host.living.Load() != 0 || vm.living.Load() != 0 {
				t.Errorf("%d and %d instances are left", host.living.Load(), vm.living.Load())
			}
		})
	}
}

func TestFailedStartEndsTheCrowd(t *testing.T) {
	vm := &canned{name: "vm"}
	vm.say = func(argv []string) (string, int, error) {
		if vm.living.Load() == 2 {
			return "", 0, errors.New("no room")
		}
		return sees(argv)
	}
	o, r := small("density", vm)
	if err := density(t.Context(), o, r); err != nil {
		t.Fatal(err)
	}
	if last := r.Density[len(r.Density)-1]; len(r.Density) != 3 || last.N != 3 || last.Error != "no room" || vm.living.Load() != 0 {
		t.Errorf("%+v", r.Density)
	}
}

func TestPulseTellsWhyItStops(t *testing.T) {
	for in, want := range map[string]string{
		`{"n":1}` + "\n" + `{"n":6}` + "\n":             "beats no more",
		`{"n":1}` + "\n" + "hvbench: no such command\n": "no beat",
	} {
		p := follow(strings.NewReader(in))
		if _, _, err := p.beyond(t.Context(), 0); err != nil && !strings.Contains(err.Error(), want) {
			t.Error(err)
		}
		if _, _, err := p.beyond(t.Context(), 50); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", in, err, want)
		}
	}
}

func TestCheckpointThatFailsSaysWhy(t *testing.T) {
	program := filepath.Join(t.TempDir(), "oci")
	script := "#!/bin/sh\ncase $3 in\nrun) i=0; while [ $i -lt 300 ]; do i=$((i+5)); echo \"{\\\"n\\\":$i}\"; done ;;\ncheckpoint) echo no working CRIU >&2; exit 1 ;;\nesac\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	c := &Checkpointer{Program: program, Tree: "/"}
	var m result.Move
	if err := c.move(t.Context(), t.TempDir(), &m); err == nil || !strings.Contains(err.Error(), "no working CRIU") {
		t.Error(err)
	}
}

// A brief run has a test of equivalence of each sort, and no move for nothing.
func TestBrief(t *testing.T) {
	few, all := looks(true), looks(false)
	sort := func(l look) string { return strings.Fields(l.name)[0] }
	has := map[string]int{}
	for _, l := range few {
		has[sort(l)]++
		if !slices.ContainsFunc(all, func(a look) bool { return a.name == l.name }) {
			t.Errorf("%s is in no other run", l.name)
		}
	}
	for _, l := range all {
		if s := sort(l); has[s] == 0 && s != "say" { // echo says as much
			t.Errorf("no test of the sort %q", s)
		}
	}
	if len(few) > len(all)*2/3 {
		t.Errorf("%d tests of %d", len(few), len(all))
	}
	o, r := small("mig", &canned{name: "host", say: sees})
	r.Plan.Targets, o.Brief, o.Moves = []string{"host"}, true, 1
	if err := moves(t.Context(), o, r); err != nil {
		t.Fatal(err)
	}
	if len(r.Moves) != 1 || r.Moves[0].Block != 1 {
		t.Errorf("%+v", r.Moves)
	}
}
