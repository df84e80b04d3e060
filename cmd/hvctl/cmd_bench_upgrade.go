package main

import (
	"fmt"
	"os"

	"github.com/hvctl/hvctl/internal/bench/upgrade"
	"github.com/hvctl/hvctl/internal/machine/limits"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdBenchUpgrade() *cli.Command {
	return &cli.Command{
		Name:  "upgrade",
		Usage: "time for how long a guest of a few instructions stands still in an upgrade",
		Description: "Needs no kernel and no image. Each guest is handed over to a new process, as\n" +
			"`hvctl upgrade` does, and its first instruction there is waited for.",
		Flags: resultFlags(
			&cli.IntFlag{Name: "memory", Value: 1024, Usage: "`SIZE` of the guest in MiB"},
			&cli.IntFlag{Name: "filled", Value: 25, Usage: "`PERCENT` of the memory has content"},
			&cli.IntFlag{Name: "cpus", Value: 1, Usage: "`NUMBER` of processors"},
			&cli.IntFlag{Name: "iterations", Aliases: []string{"n"}, Value: 50, Usage: "measure `NUMBER` times"},
			&cli.BoolFlag{Name: "successor", Hidden: true},
		),
		Action: p.benchUpgrade,
	}
}

func (p *program) benchUpgrade(c *cli.Context) error {
	ctx, stop := interruptible(c)
	defer stop()
	if c.Bool("successor") { // started by ourselves
		return upgrade.Succeed(ctx, os.NewFile(3, "link"))
	}
	o := upgrade.Options{
		Successor: []string{"/proc/self/exe", "bench", "upgrade", "--successor"},
		MemoryMiB: c.Int("memory"), CPUs: c.Int("cpus"), Iterations: c.Int("iterations"), FilledPercent: c.Int("filled"),
		Progress: func(done, all int, what string) { fmt.Fprintf(p.stderr, "%d of %d: %s\n", done+1, all, what) },
	}
	if o.MemoryMiB < limits.MinMemory>>20 || o.MemoryMiB > limits.MaxMemory>>20 || o.Iterations < 1 || o.FilledPercent < 0 || o.FilledPercent > 100 {
		return usagef(c, "--memory: %d to %d; --iterations: at least 1; --filled: 0 to 100", limits.MinMemory>>20, limits.MaxMemory>>20)
	}
	var err error
	if o.Dir, err = os.MkdirTemp("", "hvbench"); err != nil {
		return err
	}
	defer os.RemoveAll(o.Dir)
	r := upgrade.Result{Header: header(c), CPUs: o.CPUs, MemoryMiB: o.MemoryMiB, Filled: o.FilledPercent}
	r.Samples, err = upgrade.Run(ctx, o)
	return p.keep(c, &r, len(r.Samples), err)
}
