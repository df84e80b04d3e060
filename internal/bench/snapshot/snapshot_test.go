package snapshot

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/bench/record"
	"github.com/hvctl/hvctl/internal/testenv"
)

func TestEveryFigureIsTaken(t *testing.T) {
	testenv.Require(t, testenv.KVM)
	samples, err := Run(t.Context(), Options{Dir: t.TempDir(), MemoryMiB: []int{16, 64}, CPUs: 1, Iterations: 2, FilledPercent: 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range samples {
		for name, v := range map[string]int64{
			"save": s.SaveNs, "load": s.LoadNs, "pause": s.PauseNs, "write": s.WriteNs, "map": s.MapNs, "copy": s.CopyNs,
			"stored": int64(s.StoredPages), "state": int64(s.StateBytes),
		} {
			if v <= 0 {
				t.Errorf("%d MiB: %s is %d", s.MemoryMiB, name, v)
			}
		}
		if s.PauseNs >= s.WriteNs || s.MapOpenNs+s.MapNewNs+s.MapLoadNs+s.MapRunNs > s.MapNs {
			t.Errorf("parts are more than the whole: %+v", s)
		}
	}
	var out bytes.Buffer
	r := Result{Header: record.Header{Mode: "test"}, CPUs: 1, Samples: samples}
	if err := r.Print(&out); err != nil || strings.Count(out.String(), "MiB") != 2 || strings.Count(out.String(), "\n") != 4 {
		t.Errorf("%v\n%s", err, out.String())
	}
}
