package boot

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Options say what to measure.
type Options struct {
	Hvctl      string // the program
	Root       string // state root for the instances
	Store      string
	Image      string
	Kernel     string // name in the kernel store
	Transports []string
	CPUs       int
	MemoryMiB  int
	Iterations int
	QEMU       string // the peer's program; empty: no peer
	Progress   func(done, all int, target string)
}

// Stage is one stretch of the way, in nanoseconds from the start of the
// program.
type Stage struct {
	Name string `json:"name"`
	AtNs int64  `json:"atNs"`
}

// Sample is one start.
type Sample struct {
	Target    string  `json:"target"` // "hvctl/mmio", "hvctl/pci", "qemu/microvm"
	Iteration int     `json:"iteration"`
	TotalNs   int64   `json:"totalNs"` // exec to first byte of output
	InitNs    int64   `json:"initNs"`  // the guest's uptime when its init began
	PSSBytes  int64   `json:"pssBytes"`
	Stages    []Stage `json:"stages"`
	Error     string  `json:"error,omitempty"`
}

// target starts one VM that runs firstByte and measures it.
type target interface {
	name() string
	run(ctx context.Context) (Sample, error)
}

// script is the workload: one line, then it waits for the end of its input so
// that the VMM's memory can be read.
var script = []string{"sh", "-c", "echo first; read x; exit 0"}

// Run measures every target. A sample that failed is kept with its error.
func Run(ctx context.Context, o Options) ([]Sample, error) {
	var targets []target
	for _, t := range o.Transports {
		targets = append(targets, &hvctlTarget{o: o, transport: t})
	}
	if o.QEMU != "" {
		q, err := newQEMU(ctx, o)
		if err != nil {
			return nil, err
		}
		defer q.close()
		targets = append(targets, q)
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("nothing to measure: no transport and no peer")
	}
	var samples []Sample
	all := o.Iterations * len(targets)
	for i := range o.Iterations {
		order := slices.Clone(targets)
		if i%2 == 1 { // A B, B A, ...: a drift hits both alike
			slices.Reverse(order)
		}
		for _, t := range order {
			if err := ctx.Err(); err != nil {
				return samples, context.Cause(ctx)
			}
			o.Progress(len(samples), all, t.name())
			rctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
			s, err := t.run(rctx)
			cancel()
			s.Target, s.Iteration = t.name(), i
			if err != nil {
				s.Error = err.Error()
			}
			samples = append(samples, s)
		}
	}
	return samples, nil
}
