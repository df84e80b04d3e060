package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchResult is what these tests read of result.json.
type benchResult struct {
	Partial string
	Samples []struct {
		Probe, Target, Error string
		Value                float64
	}
	Moves []struct {
		Kind, Error string
		Kept        bool
	}
}

func readBench(t *testing.T, dir string) (r benchResult) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "result.json"))
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// An interrupt in the middle of a run keeps what is finished, says so in the
// report, and leaves no instance, mount or group (newHostOf looks for them).
func TestInterruptedBenchKeepsItsSamples(t *testing.T) {
	h := newHostOf(t, ctr)
	out := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := h.command(ctx, "bench", "run", "--targets", "host,container", "--suite", "life", "--blocks", "50", "--batches", "1", "--batch-time", "1ms", "--out", out)
	progress, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for in := bufio.NewScanner(progress); in.Scan(); {
		said.WriteString(in.Text() + "\n")
		if strings.HasPrefix(in.Text(), "5 of ") {
			if err := c.Process.Signal(unix.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.Wait(); err == nil {
		t.Error("an interrupted run succeeds")
	}
	if !strings.Contains(said.String(), "5 of ") {
		t.Fatalf("it did not come to that: %s", said.String())
	}
	r := readBench(t, out)
	if r.Partial == "" || len(r.Samples) == 0 {
		t.Fatalf("partial %q, %d samples\n%s", r.Partial, len(r.Samples), said.String())
	}
	for _, s := range r.Samples {
		if s.Error != "" {
			t.Errorf("%s on %s failed: %s", s.Probe, s.Target, s.Error)
		}
	}
	if b, err := os.ReadFile(filepath.Join(out, "report.md")); err != nil || !strings.Contains(string(b), "**Partial:**") {
		t.Errorf("report.md: %v\n%.500s", err, b)
	}
}

// A program that sees something else in one place fails the run, and is named.
func TestPlantedDifferenceFailsTheBench(t *testing.T) {
	h := newHostOf(t, ctr)
	out := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := h.command(ctx, "bench", "run", "--targets", "host,container", "--suite", "equiv", "--plant-output", "container", "--out", out)
	said, err := c.CombinedOutput()
	// The digest and the planted argument, as two users.
	if err == nil || !strings.Contains(string(said), "4 facts differ that must not, 0 tests failed") {
		t.Errorf("%v\n%s", err, said)
	}
	report, err := os.ReadFile(filepath.Join(out, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| see | computed |", "unexpected: container"} {
		if !strings.Contains(string(report), want) {
			t.Errorf("%q is not in\n%.3000s", want, report)
		}
	}
}

// The application chapter runs a real program in a container and in a VM, and reads
// its figures: redis, with a hundredth of its load.
func TestApplicationsRunInContainerAndVM(t *testing.T) {
	h := newHost(t)
	out := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	c := h.command(ctx, "bench", "run", "--targets", "container,vm", "--suite", "apps", "--apps", "redis", "--load", "1", "--blocks", "1", "--kernel", fast, "--out", out, "redis")
	if said, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	seen := map[string]int{}
	for _, s := range readBench(t, out).Samples {
		if s.Error != "" {
			t.Errorf("%s on %s failed: %s", s.Probe, s.Target, s.Error)
		}
		if s.Value > 0 {
			seen[s.Target+" "+s.Probe]++
		}
	}
	for _, target := range []string{"container", "vm"} {
		for _, probe := range []string{"redis-set", "redis-get", "redis-whole", "redis-memory"} {
			if seen[target+" "+probe] == 0 {
				t.Errorf("%s has no %s: %v", target, probe, seen)
			}
		}
	}
}

// The chapter of moves moves a VM while it runs, restores it, and starts it again.
func TestBenchMovesAVM(t *testing.T) {
	h := newHost(t)
	out := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	c := h.command(ctx, "bench", "run", "--targets", "vm", "--suite", "mig", "--quick", "--kernel", fast, "--out", out)
	if said, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	seen := map[string]bool{}
	for _, m := range readBench(t, out).Moves {
		if m.Error != "" {
			t.Errorf("%s failed: %s", m.Kind, m.Error)
		}
		seen[m.Kind] = m.Kept
	}
	if want := map[string]bool{"live migration": true, "snapshot and restore": true, "restart": false}; !maps.Equal(seen, want) {
		t.Errorf("what went on from where it was: %v, want %v", seen, want)
	}
}
