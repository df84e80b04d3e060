package main

import (
	"encoding/json"
	"fmt"

	"github.com/hvctl/hvctl/internal/moves"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdMigrateInspect() *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show all that is on record of an instance's migrations",
		ArgsUsage: "INSTANCE",
		Description: "The records by which both sides decided who runs it, with their epochs and peers, and the\n" +
			"plan, rounds and report of the latest attempt to send it away. Read from the\n" +
			"instance's files: also when it has ended or its owner was killed, until it is\n" +
			"removed. What goes on right now is `hvctl migrate status`.",
		Flags:        []cli.Flag{jsonFlag()},
		BashComplete: p.completeInstances(),
		Action:       p.one(p.migrateInspect),
	}
}

func (p *program) migrateInspect(c *cli.Context, h *launch.Handle) error {
	all, err := moves.Read(h.Dir())
	if err != nil {
		return fmt.Errorf("%s: %w", h.Name(), err)
	}
	all.Instance, all.Name = h.ID(), h.Name()
	// An owner knows more than it has written; there need not be one.
	if now, err := h.Client.Migration(c.Context); err == nil && now.State != workload.MigrationNone {
		all.Now = &now
		if all.Attempt != nil {
			if err := json.Unmarshal(now.Report, &all.Attempt.Report); err != nil {
				return fmt.Errorf("report of the migration: %w", err)
			}
		}
		all.Now.Report = nil // once is enough
	}
	if c.Bool("json") {
		return p.printJSON(all)
	}
	return all.WriteTable(p.stdout)
}
