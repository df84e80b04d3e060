package main

import (
	"fmt"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdDump() *cli.Command {
	return &cli.Command{
		Name:         "dump",
		Usage:        "write memory and registers of a running VM into an ELF core file",
		ArgsUsage:    "INSTANCE FILE",
		Description:  "For gdb and crash. The VM stands still meanwhile.",
		Flags:        []cli.Flag{jsonFlag()},
		BashComplete: p.completeInstances(workload.Running, workload.Paused),
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return usagef(c, "want an instance and a file")
			}
			h, err := p.handle(c, c.Args().First())
			if err != nil {
				return err
			}
			file, err := filepath.Abs(c.Args().Get(1))
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			r, err := h.Client.Dump(ctx, file)
			if err != nil {
				return named(h, err)
			}
			if c.Bool("json") {
				return p.printJSON(r)
			}
			_, err = fmt.Fprintf(p.stdout, "%s: %s of memory, %d processors\n", file, bytesText(r.StoredBytes), r.CPUs)
			return err
		},
	}
}
