package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"time"
)

// Probe is one operation and how to prepare it.
type Probe struct {
	Name    string
	Chapter string
	Follows string  // the benchmark whose definition it has; empty: ours
	MiB     float64 // moved by one operation; 0: it moves nothing
	open    func(dir string) (*bench, error)
}

// bench is a probe that is ready to run.
type bench struct {
	// run does n operations and says how many were done and how long they took,
	// which is not n and the time around it for probes that count otherwise.
	run   func(n int) (done int, took time.Duration, err error)
	close func()
}

// timed is a bench whose operations are counted and timed from outside.
func timed(op func(n int) error, end func()) *bench {
	return &bench{close: end, run: func(n int) (int, time.Duration, error) {
		begin := time.Now()
		err := op(n)
		return n, time.Since(begin), err
	}}
}

// Line is one line of hvbench's output.
type Line struct {
	// Ready names the probe that begins when a byte is read.
	Ready string `json:"ready,omitempty"`
	// Probe is set in a result.
	Probe    string    `json:"probe,omitempty"`
	N        int       `json:"n,omitempty"`    // operations asked for in a batch
	Done     int       `json:"done,omitempty"` // operations in all batches together, that which is not counted among them
	PerOpNs  float64   `json:"perOpNs,omitempty"`
	BatchNs  []float64 `json:"batchNs,omitempty"` // per operation, each batch
	InsideNs int64     `json:"insideNs,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// Options say how probes run.
type Options struct {
	Dir     string // for files
	Batches int    // that count; one goes before them
	// Counts are operations in a batch; a probe without one is calibrated.
	Counts map[string]int
	// BatchTime is what a calibrated batch takes.
	BatchTime time.Duration
	// Step is read a byte from before each probe, and before the end; nil: nobody
	// is asked.
	Step io.Reader
	// Slow plants a slowdown: for each hundred operations so many more are done
	// than are counted. It is for tests of the benchmark.
	Slow int
}

// Run runs the probes in order and writes their lines. A probe that fails has
// its error in its line; the others go on.
func Run(w io.Writer, probes []Probe, o Options) error {
	out := json.NewEncoder(w)
	for _, p := range probes {
		if err := o.step(out, p.Name); err != nil {
			return err
		}
		if err := out.Encode(p.run(o)); err != nil {
			return err
		}
	}
	return o.step(out, End) // so that there is time to look at what the last one took
}

// End is Ready when there is nothing more to begin.
const End = "end"

// step waits for the word to begin, if there is anybody to give it.
func (o *Options) step(out *json.Encoder, name string) error {
	if o.Step == nil {
		return nil
	}
	if err := out.Encode(Line{Ready: name}); err != nil {
		return err
	}
	if _, err := io.ReadFull(o.Step, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the word to begin: %w", err)
	}
	return nil
}

// run is one probe's batches.
func (p *Probe) run(o Options) (l Line) {
	l.Probe = p.Name
	runtime.LockOSThread() // forks are this thread's, and so are masks of signals
	defer runtime.UnlockOSThread()
	begin := time.Now()
	b, err := p.open(o.Dir)
	if err != nil {
		l.Error = err.Error()
		return l
	}
	defer b.close()
	if l.N = o.Counts[p.Name]; l.N == 0 {
		if l.N, err = calibrate(b, o.BatchTime); err != nil {
			l.Error = err.Error()
			return l
		}
	}
	asked := l.N + l.N*o.Slow/100
	// One batch more, first, is not counted: whoever gave the word to begin is
	// still busy then, and memory is touched for the first time.
	for batch := range o.Batches + 1 {
		done, took, err := b.run(asked)
		if err == nil && done == 0 {
			err = errors.New("no operation was counted")
		}
		if err != nil {
			l.Error = err.Error()
			return l
		}
		l.Done += done
		if batch == 0 {
			continue
		}
		l.BatchNs = append(l.BatchNs, float64(took.Nanoseconds())/float64(done)*float64(asked)/float64(l.N))
	}
	l.InsideNs = time.Since(begin).Nanoseconds()
	l.PerOpNs = median(l.BatchNs)
	return l
}

// The bounds of a batch: of fewer operations, one that is disturbed would be a
// large part. Slow operations may be fewer, which are disturbed several times each.
const (
	minCount = 20
	minSlow  = 5
	maxCount = 1 << 28
)

// calibrate finds how many operations take about d.
func calibrate(b *bench, d time.Duration) (int, error) {
	for n := 1; ; {
		_, took, err := b.run(n)
		if err != nil {
			return 0, err
		}
		if took >= d/2 || n >= maxCount {
			return batchOf(took/time.Duration(n), float64(n)*float64(d)/float64(max(took, 1)), d), nil
		}
		grow := float64(d) / float64(max(took, 1))
		n = min(maxCount, max(2*n, int(float64(n)*min(grow, 10))))
	}
}

// batchOf is how many operations a batch has when one takes each, and about want
// take d: minCount or some times as many, so that 5 per cent are a whole number; or
// fewer, where minCount would take more than five times d, but at least minSlow.
func batchOf(each time.Duration, want float64, d time.Duration) int {
	if n := int(math.Ceil(want/minCount)) * minCount; n > minCount || each*minCount <= 5*d {
		return max(n, minCount)
	}
	return max(minSlow, int(5*d/each))
}

// median of an even number is between the middle two.
func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// All are the probes in the order they run in.
func All() []Probe {
	return slices.Concat(lifeProbes(), microProbes(), memProbes(), ioProbes(), netProbes(), cpuProbes())
}

// Select returns the probes of some chapters.
func Select(chapters []string) []Probe {
	return slices.DeleteFunc(All(), func(p Probe) bool { return !slices.Contains(chapters, p.Chapter) })
}
