package main

import (
	"errors"
	"fmt"

	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdStart() *cli.Command {
	return &cli.Command{
		Name:      "start",
		Usage:     "start created instances",
		ArgsUsage: "INSTANCE...",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "attach", Aliases: []string{"a"}, Usage: "connect with its output"},
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "connect with its input, too"},
			detachFlag(),
		},
		BashComplete: p.completeInstances(workload.Created),
		Action: func(c *cli.Context) error {
			if !c.Bool("attach") && !c.Bool("interactive") {
				return p.each(func(c *cli.Context, h *launch.Handle) error {
					return startedOr(h, h.Start(c.Context))
				})(c)
			}
			return p.one(p.startAttached)(c)
		},
	}
}

func (p *program) startAttached(c *cli.Context, h *launch.Handle) error {
	keys, err := parseDetachKeys(c.String("detach-keys"))
	if err != nil {
		return err
	}
	cfg := h.Config()
	stdin, tty := c.Bool("interactive") && cfg.OpenStdin, cfg.Spec.Process.Terminal
	ctx, stop := interruptible(c)
	defer stop()
	run, err := h.StartWith(ctx, launch.Options{Attach: true, StdinOnce: stdin && !tty})
	if err != nil {
		return startedOr(h, err)
	}
	stop()
	exit, err := p.copy(session{stream: run.Stream, stdin: stdin, tty: tty, detachKeys: keys, proxy: !(tty && stdin)})
	err = p.ended(c.Context, h, exit, err)
	if exit != (workload.Exit{}) {
		run.WaitOwner(ownerGrace)
	}
	return err
}

// startedOr names the instance in a start's error.
func startedOr(h *launch.Handle, err error) error {
	if _, ok := errors.AsType[*workload.StartError](err); ok {
		return fmt.Errorf("%s: %w", h.Name(), err)
	}
	return err
}
