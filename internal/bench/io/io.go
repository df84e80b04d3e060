package io

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/hvctl/hvctl/internal/bench/io/probe"
)

// Options say what to measure.
type Options struct {
	Hvctl      string // the program
	Root       string // state root for the instances, and for what is made
	Store      string
	Probe      string // hvprobe
	Kernel     string // name in the kernel store, or a file
	Disk       string // file or block device; its content is lost
	Transports []string
	DiskFlags  []string // hvctl's variants of the disk, as after path=FILE
	Tests      string   // names with commas between; empty: all
	MemoryMiB  int
	Iterations int
	QEMU       string // the peer's program; empty: no peer
	Progress   func(done, all int, target string)
}

// Sample is one test in one guest.
type Sample struct {
	Target    string `json:"target"` // "hvctl/pci,cache=none", "qemu/pci"
	Iteration int    `json:"iteration"`
	probe.Figures
	Exits map[string]uint64 `json:"exits"` // by KVM's name
	CPUNs int64             `json:"cpuNs"` // processor time of the VMM, guest included
	Error string            `json:"error,omitempty"`
}

// target starts one guest and measures it.
type target interface {
	name() string
	run(ctx context.Context) ([]Sample, error)
}

// Run measures every target. A guest that failed leaves a sample with its
// error.
func Run(ctx context.Context, o Options) ([]Sample, error) {
	if _, err := os.Stat(o.Disk); err != nil {
		return nil, fmt.Errorf("the disk to measure: %w", err)
	}
	if o.tests() == 0 {
		return nil, fmt.Errorf("no test is called %s", o.Tests)
	}
	initrd, err := buildInitrd(o)
	if err != nil {
		return nil, err
	}
	var targets []target
	for _, t := range o.Transports {
		for _, f := range o.DiskFlags {
			targets = append(targets, &hvctlTarget{o: o, initrd: initrd, transport: t, flags: f})
		}
	}
	if o.QEMU != "" {
		peers, closer, err := qemuTargets(o, initrd)
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
