package main

import (
	"encoding/json"
	"fmt"

	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/plan"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdMigratePlan() *cli.Command {
	return &cli.Command{
		Name:      "plan",
		Usage:     "say what a migration would do with everything that an instance is bound to",
		ArgsUsage: "INSTANCE",
		Description: "The destination, where `hvctl migrate receive` waits, is asked what it has. Nothing has an\n" +
			"effect. It is an error when something is refused: then `migrate send` would refuse,\n" +
			"too, before the guest feels anything. With --on-timeout postcopy or --mode postcopy the\n" +
			"plan warns of what that can cost.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Required: true, Usage: "`ENDPOINT` HOST:PORT or unix:PATH"},
			allowFlag(),
			bindFlag(),
			onTimeoutFlag(),
			modeFlag(),
			jsonFlag(),
		},
		BashComplete: p.completeInstances(workload.Running),
		Action:       p.one(p.migratePlan),
	}
}

func bindFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "bind", Usage: "do something else with a resource of the plan, `KIND:NAME=ACTION[:ARG]`"}
}

// checkBinds refuses words that make no sense whatever the instance has.
func checkBinds(c *cli.Context) error {
	for _, s := range c.StringSlice("bind") {
		if _, err := plan.ParseBind(s); err != nil {
			return usagef(c, "%w", err)
		}
	}
	return nil
}

func (p *program) migratePlan(c *cli.Context, h *launch.Handle) error {
	var made plan.Plan
	var err error
	if c.String("mode") == modeRestart {
		made, err = p.planRestart(c, h)
	} else if err = goesOn(h); err == nil {
		made, err = p.planMove(c, h)
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = p.printJSON(made)
	} else {
		err = made.WriteTable(p.stdout)
	}
	if n := len(made.Refusals()); err == nil && n > 0 {
		return fmt.Errorf("%s: %d of %d resources are refused", h.Name(), n, len(made.Rows))
	}
	return err
}

// planMove has the owner make the plan for a VM that goes on.
func (p *program) planMove(c *cli.Context, h *launch.Handle) (made plan.Plan, err error) {
	to, err := p.endpoint(c, c.String("to"))
	if err != nil {
		return made, err
	}
	r := workload.MigrateRequest{To: to, Binds: c.StringSlice("bind")}
	if err := readWhen(c, &r); err != nil {
		return made, err
	}
	if err := checkBinds(c); err != nil {
		return made, err
	}
	done, err := lendIdentity(h, &r.To)
	if err != nil {
		return made, err
	}
	defer done()
	if r.Dialer, err = lendDialer(to.Address); err != nil {
		return made, err
	}
	defer r.Dialer.Close()
	b, err := h.Client.PlanMigration(c.Context, r)
	if err != nil {
		return made, named(h, err)
	}
	if err := json.Unmarshal(b, &made); err != nil {
		return made, fmt.Errorf("the plan: %w", err)
	}
	return made, nil
}
