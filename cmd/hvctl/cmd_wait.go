package main

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdWait() *cli.Command {
	return &cli.Command{
		Name:         "wait",
		Usage:        "wait until instances end and print their exit codes",
		ArgsUsage:    "INSTANCE...",
		Flags:        []cli.Flag{jsonFlag()},
		BashComplete: p.completeInstances(workload.Running, workload.Paused, workload.Created),
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usagef(c, "no instance given")
			}
			var exits []workload.Exit
			for _, ref := range c.Args().Slice() {
				h, err := p.handle(c, ref)
				if err != nil {
					return err
				}
				e, err := h.Wait(c.Context)
				if err != nil {
					return named(h, err)
				}
				exits = append(exits, e)
				if !c.Bool("json") {
					fmt.Fprintln(p.stdout, e.Code)
				}
			}
			if c.Bool("json") {
				return p.printJSON(exits)
			}
			return nil
		},
	}
}
