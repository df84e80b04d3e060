package main

import (
	"errors"
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
			exits := []workload.Exit{}
			var errs []error // of some; the others are waited for
			for _, ref := range c.Args().Slice() {
				e, err := p.await(c, ref)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				exits = append(exits, e)
				if !c.Bool("json") {
					fmt.Fprintln(p.stdout, e.Code)
				}
			}
			if c.Bool("json") {
				errs = append(errs, p.printJSON(exits))
			}
			return errors.Join(errs...)
		},
	}
}

func (p *program) await(c *cli.Context, ref string) (workload.Exit, error) {
	h, err := p.handle(c, ref)
	if err != nil {
		return workload.Exit{}, err
	}
	e, err := h.Wait(c.Context)
	if err != nil {
		err = named(h, err)
	}
	return e, err
}
