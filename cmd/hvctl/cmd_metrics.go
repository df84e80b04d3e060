package main

import (
	"context"

	"github.com/hvctl/hvctl/internal/exposition"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdMetrics() *cli.Command {
	return &cli.Command{
		Name:      "metrics",
		Usage:     "print what running instances use, for Prometheus",
		ArgsUsage: "[INSTANCE...]",
		Description: "The text format that node_exporter's textfile collector reads, for example. The control\n" +
			"socket of an instance answers GET /metrics with the same for itself.",
		BashComplete: p.completeInstances(workload.Running, workload.Paused),
		Action: func(c *cli.Context) error {
			ctx, stop := interruptible(c)
			defer stop()
			now, err := p.sample(ctx, c, map[string]workload.Stats{})
			if err != nil {
				return err
			}
			var all []exposition.Sample
			for _, s := range now {
				all = append(all, exposition.Sample{
					ID: s.ID, Name: s.Name, Backend: s.Backend, Image: s.image, Stats: s.Stats, Migration: p.latestMigration(ctx, c, s.ID),
				})
			}
			return exposition.Write(p.stdout, all)
		},
	}
}

// latestMigration is what is known of the latest migration of an instance; nil
// when it has none, or has ended.
func (p *program) latestMigration(ctx context.Context, c *cli.Context, id string) *workload.MigrationStatus {
	h, err := p.handle(c, id)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	m, err := h.Client.Migration(ctx)
	if err != nil {
		return nil
	}
	return &m
}
