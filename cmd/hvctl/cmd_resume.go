package main

import (
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdResume() *cli.Command {
	return &cli.Command{
		Name:         "resume",
		Aliases:      []string{"unpause"},
		Usage:        "let paused instances go on",
		ArgsUsage:    "INSTANCE...",
		BashComplete: p.completeInstances(workload.Paused),
		Action: p.each(func(c *cli.Context, h *launch.Handle) error {
			if err := h.Resume(c.Context); err != nil {
				return named(h, err)
			}
			return nil
		}),
	}
}
