package main

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdCreate() *cli.Command {
	return &cli.Command{
		Name:         "create",
		Usage:        "make a new instance without starting it, and print its ID",
		ArgsUsage:    "IMAGE [COMMAND [ARG...]]",
		Flags:        workloadFlags(),
		BashComplete: p.completeImages,
		Action: func(c *cli.Context) error {
			ctx, stop := interruptible(c)
			defer stop()
			cfg, _, err := p.config(ctx, c)
			if err != nil {
				return err
			}
			s, err := p.instances(c)
			if err != nil {
				return err
			}
			i, err := newInstance(c, s, cfg, instance.CreateOptions{Replace: c.Bool("replace"), Created: true})
			if err != nil {
				return err
			}
			i.Unlock()
			fmt.Fprintln(p.stdout, i.ID())
			return nil
		},
	}
}
