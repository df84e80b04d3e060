package result_test

import (
	"errors"
	"testing"

	"github.com/hvctl/hvctl/internal/bench/result"
)

func TestSavedResultIsReadBack(t *testing.T) {
	dir := t.TempDir()
	r := &result.Result{Schema: result.Schema, Mode: "hw", Plan: result.Plan{Targets: []string{"host"}}, Samples: []result.Sample{
		{Chapter: "cpu", Probe: "a", Target: "host", Block: 0, Warmup: true},
		{Chapter: "cpu", Probe: "a", Target: "host", Block: 1, Value: 2},
		{Chapter: "cpu", Probe: "a", Target: "host", Block: 2, Error: "no"},
	}}
	if err := r.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := result.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if good := got.Good(result.Key{Chapter: "cpu", Probe: "a"}, "host"); len(good) != 1 || good[0].Value != 2 || len(got.Failed("host")) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestOtherFilesAreRefused(t *testing.T) {
	for _, endless := range []string{"/dev/zero", "/dev/null"} {
		if _, err := result.Load(endless); !errors.Is(err, result.ErrSchema) {
			t.Errorf("%s: %v", endless, err)
		}
	}
	for _, s := range []string{`{}`, `{"schema":2,"mode":"hw","plan":{"targets":["a"]}}`, `{"schema":1,"mode":"hw"}`} {
		if _, err := result.Decode([]byte(s)); !errors.Is(err, result.ErrSchema) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"schema":1,"mode":"hw","plan":{"targets":["host"]},"samples":[{"chapter":"cpu","probe":"a"}]}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if r, err := result.Decode(b); err == nil {
			for _, k := range r.Probes() {
				r.Good(k, r.Base())
			}
		}
	})
}
