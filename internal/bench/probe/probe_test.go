package probe

import (
	"bufio"
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func lines(t *testing.T, b []byte) (l []Line) {
	t.Helper()
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		var v Line
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		l = append(l, v)
	}
	return l
}

// Every probe runs, counts its operations, and gives as many batches as asked.
func TestEveryProbeMeasures(t *testing.T) {
	for _, p := range All() {
		t.Run(p.Name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Run(&out, []Probe{p}, Options{Dir: t.TempDir(), Batches: 3, BatchTime: 200 * time.Microsecond}); err != nil {
				t.Fatal(err)
			}
			l := lines(t, out.Bytes())
			if len(l) != 1 || l[0].Error != "" || len(l[0].BatchNs) != 3 || !(l[0].PerOpNs > 0) || l[0].Done < 4*minSlow {
				t.Fatalf("%s", out.String())
			}
			t.Logf("%.1f ns, %d operations a batch", l[0].PerOpNs, l[0].N)
		})
	}
}

func TestSlowIsPlanted(t *testing.T) {
	done := 0
	p := Probe{Name: "count", open: func(string) (*bench, error) {
		return &bench{close: nothing, run: func(n int) (int, time.Duration, error) {
			done += n
			return n, time.Duration(n) * time.Microsecond, nil
		}}, nil
	}}
	l := p.run(Options{Batches: 1, Counts: map[string]int{"count": 200}, Slow: 5})
	if done != 2*210 || math.Abs(l.PerOpNs-1050) > 1e-6 || l.N != 200 {
		t.Errorf("%d done, %+v", done, l)
	}
}

// The first batch, in which the benchmark is still busy, does not count, and no
// batch is so short that one disturbed operation makes its time.
func TestFirstBatchIsNotCounted(t *testing.T) {
	batch := 0
	p := Probe{Name: "slow at first", open: func(string) (*bench, error) {
		return &bench{close: nothing, run: func(n int) (int, time.Duration, error) {
			if batch++; batch == 1 && n == 100 {
				return n, time.Hour, nil
			}
			return n, time.Duration(n) * time.Second, nil
		}}, nil
	}}
	l := p.run(Options{Batches: 1, Counts: map[string]int{"slow at first": 100}})
	if l.PerOpNs != 1e9 || len(l.BatchNs) != 1 || batch != 2 {
		t.Errorf("%d batches, %+v", batch, l)
	}
}

// Batches have whole twentieths, unless their operations are very slow.
func TestBatchSizes(t *testing.T) {
	for _, c := range []struct {
		each, batch time.Duration
		want        int
	}{
		{time.Second, time.Millisecond, 5}, {10 * time.Millisecond, 20 * time.Millisecond, 10}, {5 * time.Millisecond, 20 * time.Millisecond, 20},
		{time.Millisecond, 20 * time.Millisecond, 20}, {900 * time.Microsecond, 20 * time.Millisecond, 40}, {100 * time.Nanosecond, 20 * time.Millisecond, 200_000},
	} {
		b := &bench{close: nothing, run: func(n int) (int, time.Duration, error) { return n, time.Duration(n) * c.each, nil }}
		if n, err := calibrate(b, c.batch); n != c.want || err != nil {
			t.Errorf("%v an operation, %v a batch: %d, %v; want %d", c.each, c.batch, n, err, c.want)
		}
	}
}

func TestStepWaitsForTheWord(t *testing.T) {
	var out bytes.Buffer
	probes := Select([]string{"cpu"})
	err := Run(&out, probes, Options{Batches: 1, BatchTime: time.Microsecond, Step: strings.NewReader("\n")})
	if err == nil {
		t.Error("went on without the word")
	}
	if l := lines(t, out.Bytes()); len(l) != 3 || l[0].Ready != "sha256" || l[1].Probe != "sha256" || l[2].Ready != "matmul" {
		t.Errorf("%+v", l)
	}
}

func TestNamesAreUnique(t *testing.T) {
	var names []string
	for _, p := range All() {
		if slices.Contains(names, p.Name) {
			t.Errorf("%s twice", p.Name)
		}
		names = append(names, p.Name)
	}
}

// A switch's figure has nothing of the making and ending of those who switch.
func TestSwitchesAlone(t *testing.T) {
	figure := func(name string) float64 {
		for _, p := range All() {
			if p.Name == name {
				return (&p).run(Options{Dir: t.TempDir(), Batches: 5, Counts: map[string]int{name: 100}}).PerOpNs
			}
		}
		t.Fatal("no probe", name)
		return 0
	}
	for one, life := range map[string]string{"switch-proc": "fork", "switch-thread": "thread"} {
		if s, l := figure(one), figure(life); !(s > 0 && s < l/4) {
			t.Errorf("%s %.0f ns, %s %.0f ns", one, s, life, l)
		}
	}
}
