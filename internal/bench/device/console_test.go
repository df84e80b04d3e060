package device

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/bench/device/probe"
	"github.com/hvctl/hvctl/internal/bench/record"
)

// stepper counts ten exits between any two looks.
func stepper() func() (counters, error) {
	n := uint64(0)
	return func() (counters, error) {
		n += 10
		return counters{exits: map[string]uint64{"exits": n}, cpuNs: int64(n)}, nil
	}
}

const session = "[ 0.1] kernel says\r\n+a\r\n.\r\n{\"test\":\"a\",\"ops\":5,\"bytes\":512,\"ns\":1000}\r\n" +
	"+b\r\n.\r\n{\"test\":\"b\",\"ops\":2,\"bytes\":4096,\"ns\":8000}\r\n"

func TestEachTestHasItsOwnCounters(t *testing.T) {
	got, err := follow(strings.NewReader(session), 2, stepper())
	if err != nil || len(got) != 2 {
		t.Fatalf("%d samples, %v", len(got), err)
	}
	for i, s := range got {
		if s.Test != string(rune('a'+i)) || s.Exits["exits"] != 10 || s.CPUNs != 10 {
			t.Errorf("sample %d: %+v", i, s)
		}
	}
}

func TestAGuestThatFailsSaysWhy(t *testing.T) {
	for name, c := range map[string]struct{ console, want string }{
		"its own words": {"+a\r\n-no disk\r\n", "no disk"},
		"early end":     {session[:70] + "\nKernel panic\n", "after 1 of 2 tests"},
		"last words":    {"Kernel panic\n", "Kernel panic"},
		"no figures":    {"+a\n.\n{]\n", "invalid"},
	} {
		if _, err := follow(strings.NewReader(c.console), 2, stepper()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestTheLeastOfAllIterationsIsShown(t *testing.T) {
	sample := func(target string, ns int64, failed string) Sample {
		return Sample{
			Target: target, Figures: probe.Figures{Test: "a", Ops: 10, Bytes: 4096, Ns: ns},
			Exits: map[string]uint64{"exits": 25}, Error: failed,
		}
	}
	r := Result{Header: record.Header{Mode: "tcg"}, Samples: []Sample{sample("x", 90e3, ""), sample("x", 50e3, ""), sample("x", 10e3, "broke")}}
	var b bytes.Buffer
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	if out := b.String(); !strings.Contains(out, "5.0 us") || !strings.Contains(out, "2.50") || !strings.Contains(out, "broke") {
		t.Errorf("the table says\n%s", out)
	}
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte(session))
	f.Add([]byte("+a\n{\"ns\":1}\n.\n-x\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = follow(bytes.NewReader(b), 2, stepper()) })
}
