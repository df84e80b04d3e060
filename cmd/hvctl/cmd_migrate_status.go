package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/internal/restart"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdMigrateStatus() *cli.Command {
	return &cli.Command{
		Name:         "status",
		Usage:        "say where the latest migration of an instance away from here has got to",
		ArgsUsage:    "INSTANCE",
		Flags:        []cli.Flag{jsonFlag()},
		BashComplete: p.completeInstances(workload.Running),
		Action: p.one(func(c *cli.Context, h *launch.Handle) error {
			m, ours, err := restart.Status(c.Context, h)
			if err == nil && !ours {
				m, err = h.Client.Migration(c.Context)
			}
			if err != nil {
				return named(h, err)
			}
			if c.Bool("json") {
				return p.printJSON(m)
			}
			return p.printMigration(m)
		}),
	}
}

func (p *program) printMigration(m workload.MigrationStatus) error {
	if m.State == workload.MigrationNone {
		fmt.Fprintln(p.stdout, "no migration was tried")
		return nil
	}
	var r migrate.Report
	if err := json.Unmarshal(m.Report, &r); err != nil {
		return fmt.Errorf("report of the migration: %w", err)
	}
	switch m.State {
	case workload.MigrationGoing:
		fmt.Fprintf(p.stdout, "to %s, for %v\n", m.To, time.Since(time.Unix(0, m.BeganNs)).Round(time.Millisecond))
	case workload.MigrationServing:
		p.printServing(m, r.PostCopy)
	case workload.MigrationInDoubt:
		fmt.Fprintf(p.stdout, "to %s: in doubt: %s\n", m.To, m.Error)
	default:
		fmt.Fprintf(p.stdout, "to %s: over: %s\n", m.To, m.Error)
	}
	return r.WriteTable(p.stdout)
}

// printServing says what the owner of an instance that runs elsewhere does.
func (p *program) printServing(m workload.MigrationStatus, c *migrate.PostCopy) {
	fmt.Fprintf(p.stdout, "it runs at %s, on memory that is partly here; begun %v ago\n", m.To, time.Since(time.Unix(0, m.BeganNs)).Round(time.Millisecond))
	switch {
	case c == nil:
	case c.State == "broken":
		fmt.Fprintf(p.stdout, "%s is not reached (%s): it stands still there on the first page that it lacks, of %d; this is dialled again every 2 seconds, and at once for hvctl migrate recover\n", m.To, c.Why, c.Left)
	default:
		fmt.Fprintf(p.stdout, "%d of %d pages that were missing there are still to be sent\n", c.Left, c.Missing)
	}
}

func (p *program) cmdMigrateRecover() *cli.Command {
	return &cli.Command{
		Name:      "recover",
		Usage:     "dial the destination again that waits for memory of an instance",
		ArgsUsage: "INSTANCE",
		Description: "For a VM that was sent with postcopy, and whose connections have broken since: it stands\n" +
			"still at its destination on the first page that it lacks. This is tried every 2 seconds without\n" +
			"being told. While memory is copied before the VM goes, nothing needs to be recovered.",
		BashComplete: p.completeInstances(workload.Running),
		Action: p.one(func(c *cli.Context, h *launch.Handle) error {
			if err := h.Client.RecoverMigration(c.Context); err != nil {
				return named(h, err)
			}
			return nil
		}),
	}
}

func (p *program) cmdMigrateCancel() *cli.Command {
	return &cli.Command{
		Name:      "cancel",
		Usage:     "call the migration of an instance off: it goes on here",
		ArgsUsage: "INSTANCE",
		Description: "Once the right to run the instance has been handed over, it is too late, and an error\n" +
			"says so.",
		BashComplete: p.completeInstances(workload.Running),
		Action: p.one(func(c *cli.Context, h *launch.Handle) error {
			called, err := restart.Cancel(c.Context, h)
			if err == nil && !called && h.Config().Backend == "container" {
				err = errors.New("there is no migration to cancel")
			} else if err == nil && !called {
				err = h.Client.CancelMigration(c.Context)
			}
			if err != nil {
				return named(h, err)
			}
			return nil
		}),
	}
}
