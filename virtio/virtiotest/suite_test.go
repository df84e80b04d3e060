package virtiotest

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
)

// verdict is a testing.TB that records what a case says instead of failing.
type verdict struct {
	testing.TB
	failed   bool
	cleanups []func()
}

func (v *verdict) Errorf(f string, a ...any) { v.failed = true; v.TB.Logf("as wanted: "+f, a...) }
func (v *verdict) Error(a ...any)            { v.failed = true; v.TB.Log(a...) }
func (v *verdict) Fatalf(f string, a ...any) { v.Errorf(f, a...); runtime.Goexit() }
func (v *verdict) Fatal(a ...any)            { v.Error(a...); runtime.Goexit() }
func (v *verdict) Cleanup(f func())          { v.cleanups = append(v.cleanups, f) }

// judge runs one case as the suite would and reports whether it failed.
func judge(t *testing.T, s Suite, run func(testing.TB, Suite, func() Link)) bool {
	v := &verdict{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, cleanup := range slices.Backward(v.cleanups) {
				cleanup()
			}
		}()
		run(v, s, Direct)
	}()
	<-done
	return v.failed
}

// echo is a device that copies what it may read to what it may write, with
// flaws to choose from.
type echo struct {
	flaw  string
	count uint64
	env   *virtio.Env
}

func (e *echo) Info() virtio.Info {
	return virtio.Info{ID: virtio.IDRNG, QueueSizes: []uint16{16}, ConfigLen: 8}
}

func (e *echo) Activate(_ context.Context, env *virtio.Env) error {
	e.env = env
	return nil
}

func (e *echo) HandleQueue(_ context.Context, q *virtio.Queue) error {
	for {
		c, ok, err := q.Pop()
		if err != nil && e.flaw == "swallows errors" {
			return nil
		}
		if err != nil && e.flaw == "blames the host" {
			return errors.New("bad chain")
		}
		if !ok || err != nil {
			return err
		}
		b := make([]byte, min(c.Readable.Len(), c.Writable.Len(), 1<<16))
		c.Readable.CopyOut(b)
		n := c.Writable.CopyIn(b)
		if e.flaw == "loses requests after a reset" && e.env.Queues[0].Rings().NextUsed == 0 && e.count > 0 {
			n = 0
		}
		e.count++
		if err := q.Push(c, uint32(n)); err != nil {
			return err
		}
	}
}

func (e *echo) Reset() {
	if e.flaw != "loses requests after a reset" {
		e.count = 0
	}
}

func (e *echo) ReadConfig(p []byte, off uint32) {
	for i := range p {
		p[i] = byte(off) + byte(i)
	}
	if e.flaw == "unstable configuration" {
		p[0] = byte(e.count)
		e.count++
	}
}
func (e *echo) WriteConfig([]byte, uint32) {}

type echoV1 struct{ Count uint64 }

func (e *echo) StateVersion() uint32 { return 1 }
func (e *echo) SaveState() (any, error) {
	if e.flaw == "forgets state" {
		return echoV1{}, nil
	}
	return echoV1{e.count}, nil
}

func (e *echo) LoadState(d state.Decoder) error {
	var s echoV1
	err := d.Into(&s)
	if e.flaw != "does not load" {
		e.count = s.Count
	}
	return err
}

func (e *echo) CheckFeatures(f virtio.Features) error {
	if e.flaw == "refuses its own features" && f.Has(virtio.FeatureEventIdx) {
		return virtio.GuestErrorf("no")
	}
	return nil
}

func echoSuite(flaw string) Suite {
	return Suite{
		Kind: virtio.Kind{Name: "echo", New: func(virtio.Args) (virtio.Device, error) { return &echo{flaw: flaw}, nil }},
		Request: func(t testing.TB, d *Driver) {
			t.Helper()
			if u := d.Queue(0).Do(Out([]byte("ping")), In(8)); u.Written != 4 || string(u.In[:4]) != "ping" {
				t.Fatalf("answer %q, %d bytes", u.In, u.Written)
			}
		},
		Change: func(testing.TB, *Driver) {},
	}
}

func TestSuitePassesASoundDevice(t *testing.T) { echoSuite("").Run(t) }

func FuzzEcho(f *testing.F) { echoSuite("").Fuzz(f) }

func TestSuiteFindsFlaws(t *testing.T) {
	for _, c := range []struct {
		flaw string
		run  func(testing.TB, Suite, func() Link)
	}{
		{"swallows errors", malformedChains},
		{"blames the host", malformedChains},
		{"unstable configuration", configBounds},
		{"loses requests after a reset", resetTwice},
		{"forgets state", saveAndLoad},
		{"does not load", saveAndLoad},
		{"refuses its own features", features},
	} {
		t.Run(c.flaw, func(t *testing.T) {
			if judge(t, echoSuite(""), c.run) {
				t.Fatal("the sound device fails")
			}
			if !judge(t, echoSuite(c.flaw), c.run) {
				t.Error("not noticed")
			}
		})
	}
}
