package main

import (
	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdAttach() *cli.Command {
	return &cli.Command{
		Name:      "attach",
		Usage:     "connect with the first process of a running instance",
		ArgsUsage: "INSTANCE",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "no-stdin", Usage: "do not forward standard input"},
			&cli.BoolFlag{Name: "sig-proxy", Value: true, Usage: "pass signals on to the process"},
			detachFlag(),
		},
		BashComplete: p.completeInstances(workload.Running),
		Action: p.one(func(c *cli.Context, h *launch.Handle) error {
			keys, err := parseDetachKeys(c.String("detach-keys"))
			if err != nil {
				return err
			}
			cfg := h.Config()
			stdin, tty := cfg.OpenStdin && !c.Bool("no-stdin"), cfg.Spec.Process.Terminal
			s, err := h.Attach(c.Context, control.AttachRequest{Stdin: stdin})
			if err != nil {
				return named(h, err)
			}
			exit, err := p.follow(c, h, session{stream: s, stdin: stdin, tty: tty, detachKeys: keys, proxy: c.Bool("sig-proxy") && !(tty && stdin)})
			return p.ended(c.Context, h, exit, err)
		}),
	}
}
