package metrics_test

import (
	"slices"
	"sync/atomic"
	"testing"

	"github.com/hvctl/hvctl/internal/metrics"
)

type disk struct {
	Reads atomic.Uint64 `metric:"reads_total,1"`
	Bytes atomic.Uint64 `metric:"read_bytes_total,bytes"`
	other int
}

func TestSnapshotFollowsTheCounters(t *testing.T) {
	var r metrics.Registry
	a, b := &disk{other: 1}, &disk{}
	for name, d := range map[string]*disk{"a": a, "b": b} {
		if err := r.Register(name, d); err != nil {
			t.Fatal(err)
		}
	}
	a.Bytes.Add(512)
	b.Reads.Add(2)
	want := []metrics.Value{
		{Name: "a.read_bytes_total", Unit: "bytes", Value: 512},
		{Name: "a.reads_total", Unit: "1"},
		{Name: "b.read_bytes_total", Unit: "bytes"},
		{Name: "b.reads_total", Unit: "1", Value: 2},
	}
	if got := r.Snapshot(); !slices.Equal(got, want) {
		t.Errorf("Snapshot = %+v, want %+v", got, want)
	}
	r.Unregister("a")
	if got := r.Snapshot(); !slices.Equal(got, want[2:]) {
		t.Errorf("after Unregister %+v", got)
	}
}

func TestMistakesAreRefused(t *testing.T) {
	var r metrics.Registry
	d := &disk{}
	if err := r.Register("a", d); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]any{
		"a":    d,
		"n":    (*disk)(nil),
		"i":    new(int),
		"tags": &struct{ N atomic.Uint64 }{},
	} {
		if err := r.Register(name, s); err == nil {
			t.Errorf("Register(%q, %T) succeeded", name, s)
		}
	}
	if n := len(r.Snapshot()); n != 2 {
		t.Errorf("%d counters after refused registrations, want 2", n)
	}
}
