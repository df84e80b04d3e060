package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/internal/bench/snapshot"
	"github.com/hvctl/hvctl/internal/machine/limits"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdBenchSnapshot() *cli.Command {
	return &cli.Command{
		Name:  "snapshot",
		Usage: "time snapshots and restores of a guest of a few instructions",
		Description: "Needs no kernel and no image. A restore is timed from the file's name to the guest's\n" +
			"first instruction.",
		Flags: resultFlags(
			&cli.StringFlag{Name: "memory", Value: "64,256,1024", Usage: "measure these sizes: `LIST` in MiB"},
			&cli.IntFlag{Name: "filled", Value: 25, Usage: "`PERCENT` of the memory has content"},
			&cli.IntFlag{Name: "cpus", Value: 1, Usage: "`NUMBER` of processors"},
			&cli.IntFlag{Name: "iterations", Aliases: []string{"n"}, Value: 10, Usage: "measure each size `NUMBER` times"},
			&cli.StringFlag{Name: "dir", Usage: "write snapshots to `DIR`", DefaultText: "a temporary one"},
		),
		Action: p.benchSnapshot,
	}
}

func (p *program) benchSnapshot(c *cli.Context) error {
	o := snapshot.Options{CPUs: c.Int("cpus"), Iterations: c.Int("iterations"), FilledPercent: c.Int("filled")}
	for f := range strings.SplitSeq(c.String("memory"), ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < limits.MinMemory>>20 || n > limits.MaxMemory>>20 {
			return usagef(c, "--memory %q: want a list of %d to %d MiB", f, limits.MinMemory>>20, limits.MaxMemory>>20)
		}
		o.MemoryMiB = append(o.MemoryMiB, n)
	}
	if o.Iterations < 1 || o.FilledPercent < 0 || o.FilledPercent > 100 {
		return usagef(c, "--iterations and --filled: want at least 1, and 0 to 100")
	}
	var err error
	if o.Dir, err = os.MkdirTemp(c.String("dir"), "hvbench"); err != nil {
		return err
	}
	defer os.RemoveAll(o.Dir)
	o.Progress = func(done, all int, what string) { fmt.Fprintf(p.stderr, "%d of %d: %s\n", done+1, all, what) }
	ctx, stop := interruptible(c)
	defer stop()
	r := snapshot.Result{Header: header(c), CPUs: o.CPUs, Filled: o.FilledPercent}
	r.Samples, err = snapshot.Run(ctx, o)
	return p.keep(c, &r, len(r.Samples), err)
}
