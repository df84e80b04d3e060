package device

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hvctl/hvctl/internal/bench/device/probe"
)

// Options say what to run. Root, Store and Kernel are as hvctl's own.
type Options struct {
	Hvctl      string // the program
	Root       string // state root for the instances, and for what is made
	Store      string
	Probe      string // hvprobe
	Kernel     string // name in the kernel store, or a file
	Transports []string
	Tests      string // names with commas between; empty: all of the subject
	MemoryMiB  int
	Iterations int
	QEMU       string // the peer's program; empty: no peer
	// Progress is told before each run.
	Progress func(done, all int, target string)
}

// Subject is the device under test.
type Subject struct {
	tests   func(list string) (chosen int)
	cmdline string // further words for the guest's kernel
	hvctl   []variant
	qemu    []variant
}

// variant is one way to give a guest the device.
type variant struct {
	name string                          // after the transport; may be empty
	args func(transport string) []string // of `hvctl boot`, or of QEMU
}

// Sample is one test in one guest.
type Sample struct {
	Target    string `json:"target"` // "hvctl/pci,cache=none", "qemu/pci"
	Iteration int    `json:"iteration"`
	probe.Figures
	Exits map[string]uint64 `json:"exits"` // by KVM's name
	CPUNs int64             `json:"cpuNs"` // processor time of the VMM, guest included
	Turns uint64            `json:"turns"` // how often its threads began to run
	Error string            `json:"error,omitempty"`
}

// target runs all tests in a fresh guest.
type target interface {
	name() string
	run(ctx context.Context) ([]Sample, error)
}

// Run measures every target Iterations times in turn. The samples so far are
// valid when it fails.
func Run(ctx context.Context, o Options, s Subject) ([]Sample, error) {
	if s.tests(o.Tests) == 0 {
		return nil, fmt.Errorf("no test is called %s", o.Tests)
	}
	if len(o.Transports) == 0 {
		return nil, errors.New("no transports to measure")
	}
	initrd, err := buildInitrd(o)
	if err != nil {
		return nil, err
	}
	var targets []target
	for _, t := range o.Transports {
		for _, v := range s.hvctl {
			targets = append(targets, &hvctlTarget{o: o, s: s, initrd: initrd, transport: t, variant: v})
		}
	}
	if o.QEMU != "" {
		peers, closer, err := qemuTargets(o, s, initrd)
		if err != nil {
			return nil, err
		}
		defer closer()
		targets = append(targets, peers...)
	}
	var samples []Sample
	all := o.Iterations * len(targets)
	for i := range o.Iterations {
		order := slices.Clone(targets)
		if i%2 == 1 { // A B, B A, ...: a drift hits both alike
			slices.Reverse(order)
		}
		for n, t := range order {
			if err := ctx.Err(); err != nil {
				return samples, context.Cause(ctx)
			}
			o.Progress(i*len(targets)+n, all, t.name())
			rctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
			got, err := t.run(rctx)
			cancel()
			if err != nil {
				got = append(got, Sample{Error: err.Error()})
			}
			for _, s := range got {
				s.Target, s.Iteration = t.name(), i
				samples = append(samples, s)
			}
		}
	}
	return samples, nil
}
