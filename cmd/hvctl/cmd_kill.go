package main

import (
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdKill() *cli.Command {
	return &cli.Command{
		Name:        "kill",
		Usage:       "send a signal to the first process of instances",
		ArgsUsage:   "INSTANCE...",
		Description: "KILL, the default, ends the whole instance whether anything in it answers or not.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "signal", Aliases: []string{"s"}, Value: "KILL", Usage: "send `SIGNAL`, a name or a number"},
		},
		BashComplete: p.completeInstances(workload.Running, workload.Paused),
		Action: p.each(func(c *cli.Context, h *launch.Handle) error {
			sig, err := workload.ParseSignal(c.String("signal"))
			if err != nil {
				return err
			}
			if err := h.Signal(c.Context, sig); err != nil {
				return named(h, err)
			}
			return nil
		}),
	}
}
