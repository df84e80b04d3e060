package main

import (
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdPause() *cli.Command {
	return &cli.Command{
		Name:         "pause",
		Usage:        "stop everything in instances where it is",
		ArgsUsage:    "INSTANCE...",
		BashComplete: p.completeInstances(workload.Running),
		Action: p.each(func(c *cli.Context, h *launch.Handle) error {
			if err := h.Pause(c.Context); err != nil {
				return named(h, err)
			}
			return nil
		}),
	}
}
