package migrate

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/bench/migrate/beat"
	"github.com/hvctl/hvctl/internal/bench/record"
)

func TestBoundIsWhatPreCopyTakesAtLeast(t *testing.T) {
	const mb = 1e6
	for _, tc := range []struct {
		name            string
		set, rate, link float64
		want            time.Duration
		ok              bool
	}{
		{"idle guest: once everything", 0, 0, 10 * mb, 10 * time.Second, true},
		{"half the link: everything, its half, the half's half...", 100 * mb, 5 * mb, 10 * mb, 19961 * time.Millisecond, true},
		{"a small set is sent whole each round", mb / 10, 5 * mb, 10 * mb, 10010 * time.Millisecond, true},
		{"as fast as the link", 100 * mb, 10 * mb, 10 * mb, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := Bound(100*mb, tc.set, tc.rate, tc.link, 50*time.Millisecond)
			if d := (got - tc.want).Abs(); ok != tc.ok || d > 10*time.Millisecond {
				t.Errorf("%v, %v; want %v, %v", got, ok, tc.want, tc.ok)
			}
		})
	}
}

func TestTicksThatCameAsMemoryAreNotTheDestinations(t *testing.T) {
	w := watch{
		from: []seen{{1, 1}, {2, 10}, {9, 90}},
		to:   []seen{{1, 20}, {5, 60}, {9, 95}},
	}
	if d, ok := w.standstill(); ok {
		t.Errorf("stood still for %v, yet it does not live", d)
	}
	w.to = append(w.to, seen{10, 130})
	if d, ok := w.standstill(); !ok || d != 40 || w.lived() {
		t.Errorf("%v, %v, lived %v", d, ok, w.lived())
	}
	w.to = append(w.to, seen{14, 140})
	if !w.lived() {
		t.Error("it has ticked five times")
	}
}

func TestTheTableHasARowForEachLoadAndTarget(t *testing.T) {
	r := Result{Header: record.Header{Mode: "tcg"}, LinkRate: 25e6, PlainRate: 25e6, SetMiB: 16, DowntimeMs: 50, Samples: []Sample{
		{Target: "a", Load: 50, TotalNs: 3e9}, {Target: "a", Load: 50, Error: "it broke"}, {Target: "a", Load: 0, TotalNs: 1e9}, {Target: "b", Load: 0},
	}}
	var b bytes.Buffer
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 5 {
		t.Fatalf("%s", b.String())
	}
	if f := strings.Fields(lines[4]); f[0] != "50" || f[3] != "3.00" || f[len(f)-1] != "1" || f[len(f)-2] != "1" {
		t.Errorf("the last row is %q", f)
	}
}

func TestABeatIsNoOtherPage(t *testing.T) {
	if _, ok := (ram{}).beat(0); ok {
		t.Error("no file has a beat")
	}
	if _, ok := beat.Parse(bytes.Repeat([]byte{1}, beat.Size)); ok {
		t.Error("a page of ones is taken for a beat")
	}
}
