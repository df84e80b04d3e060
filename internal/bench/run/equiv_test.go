package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hvctl/hvctl/internal/bench/equiv"
	"github.com/hvctl/hvctl/internal/bench/probe"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// canned is a world whose programs say what a function makes of their arguments.
type canned struct {
	name string
	say  func(argv []string) (out string, code int, err error)
	// living instances, and those that were ever started
	living, started atomic.Int32
	onStart         func(n int32)
}

func (c *canned) Name() string { return c.name }

func (c *canned) Start(_ context.Context, j Job) (*Living, error) {
	if n := c.started.Add(1); c.onStart != nil {
		c.onStart(n)
	}
	out, code, err := c.say(j.Argv)
	if err != nil {
		return nil, err
	}
	c.living.Add(1)
	var gone sync.Once
	in, inW := io.Pipe()
	outR, outW := io.Pipe()
	go func() {
		if j.Argv[1] == "echo" { // reads all that it is told before it ends
			_, _ = io.Copy(outW, in)
		}
		_, _ = io.WriteString(outW, out)
		if j.Argv[1] == "pour" { // told to, it says nothing more, and goes on
			_, _ = io.ReadFull(in, make([]byte, 1))
			_ = probe.Pour("127.0.0.1:" + j.Argv[2])
		}
		_ = outW.Close()
		_, _ = io.Copy(io.Discard, in)
	}()
	return &Living{
		ID: strings.Repeat("b", 64), In: inW, Out: outR,
		usage:  func(context.Context) (Usage, error) { return Usage{}, nil },
		wait:   func() (workload.Exit, error) { return workload.Exit{Code: code}, nil },
		signal: func(context.Context, unix.Signal) error { return nil },
		pids:   func() []int { return nil },
		remove: func(context.Context) error { gone.Do(func() { c.living.Add(-1) }); return nil },
	}, nil
}

// sees is a program that computes, and sees what it is asked to.
func sees(argv []string) (string, int, error) {
	switch argv[1] {
	case "see":
		digest := "ok"
		if argv[len(argv)-1] == "-planted" {
			digest = "wrong"
		}
		b, err := json.Marshal([]probe.Fact{{Name: "computed", Value: digest}})
		return string(b), 0, err
	case "reach":
		b, err := json.Marshal([]probe.Fact{{Name: "open /dev/mem", Value: probe.Out + "no such file"}})
		return string(b), 0, err
	case "catch":
		return `{"ready":"wait"}` + "\n", 3, nil
	case "idle":
		return `{"ready":"wait"}` + "\n", 0, nil
	case "beat":
		var b strings.Builder
		for n := 1; n <= 2*warmBeats; n += 5 {
			fmt.Fprintf(&b, "{\"n\":%d,\"gapNs\":2000000}\n", n)
		}
		return b.String(), 0, nil
	case "spin", "latency", "storm", "eat", "crowd":
		return `{"ready":"begin"}` + "\n" + `{"ops":7,"ns":1000,"p99Ns":12}` + "\n", 0, nil
	case "disk", "drain":
		return `{"ready":"begin"}` + "\n" + `{"ready":"count"}` + "\n" + `{"ops":7,"ns":1000}` + "\n", 0, nil
	case "pour":
		return `{"ready":"begin"}` + "\n", 0, nil
	}
	return strings.Join(argv, " "), 0, nil
}

func TestPlantedDifferenceFailsEquivalence(t *testing.T) {
	for _, planted := range []string{"", "vm"} {
		r := plan("host", "vm")
		r.Plan.Chapters = []string{"equiv"}
		o := options(&canned{name: "host", say: sees}, &canned{name: "vm", say: sees})
		o.PlantOutput = planted
		if err := Run(t.Context(), o, r); err != nil {
			t.Fatal(err)
		}
		n := equiv.Count(equiv.Judge(r.Facts, r.Plan.Targets))
		if n[equiv.Failed] != 0 || (n[equiv.Unexpected] > 0) != (planted != "") || n[equiv.Same] < 2*len(looks(false))-2 {
			t.Errorf("planted in %q: %v", planted, n)
		}
	}
}

func TestTargetThatCannotStartFailsEveryTest(t *testing.T) {
	r := plan("host", "vm")
	r.Plan.Chapters = []string{"equiv"}
	broken := &canned{name: "vm", say: func([]string) (string, int, error) { return "", 0, errors.New("no kernel") }}
	if err := Run(t.Context(), options(&canned{name: "host", say: sees}, broken), r); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, f := range r.Facts {
		if f.Target == "vm" && strings.Contains(f.Error, "no kernel") {
			failed++
		}
	}
	if failed != len(looks(false))+1 || slices.ContainsFunc(r.Facts, func(f result.Fact) bool { return f.Target == "host" && f.Error != "" }) {
		t.Errorf("%d of %d tests failed: %+v", failed, len(looks(false))+1, r.Facts)
	}
}
