package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdUpgrade() *cli.Command {
	return &cli.Command{
		Name:      "upgrade",
		Usage:     "have a running VM go on in a new owner process, that of this hvctl",
		ArgsUsage: "INSTANCE",
		Description: "For a new version of hvctl, while the VM runs: memory, disks, network and\n" +
			"published ports are handed over as they are, and the VM stands still for some\n" +
			"milliseconds. Up to the moment when the new process takes it over, any failure\n" +
			"leaves it running in the old one. Attached clients that forward input, and those\n" +
			"of exec and cp, are told and end; what exec started goes on. Connections through\n" +
			"published ports are carried by the old process until they end.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "program", TakesFile: true, Usage: "the new owner is a process of `FILE`", DefaultText: "hvctl-vmm of this hvctl"},
			jsonFlag(),
		},
		BashComplete: p.completeInstances(workload.Running),
		Action:       p.one(p.upgrade),
	}
}

func (p *program) upgrade(c *cli.Context, h *launch.Handle) error {
	program := c.String("program")
	if program == "" {
		if h.Backend == nil {
			return fmt.Errorf("%s: this hvctl has no owner program for the backend %s", h.Name(), h.Config().Backend)
		}
		argv, err := h.Backend.Command()
		if err != nil {
			return named(h, err)
		}
		program = argv[0]
	}
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	level, err := logLevel(c)
	if err != nil {
		return err
	}
	b, err := h.Upgrade(ctx, program, level)
	if err != nil {
		return named(h, err)
	}
	var r handoff.Report
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("report of the upgrade: %w", err)
	}
	if c.Bool("json") {
		return p.printJSON(r)
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "INSTANCE\tSTOOD STILL\tPAUSE\tSAVE\tLOAD\tCOMMIT\tSTATE")
	fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%v\t%v\t%d KiB\n", h.Name(), short(r.BlackoutNs), short(r.PauseNs), short(r.SaveNs), short(r.LoadNs), short(r.CommitNs), r.StateBytes>>10)
	return w.Flush()
}

// short is a time with as many digits as matter.
func short(ns int64) time.Duration { return time.Duration(ns).Round(10 * time.Microsecond) }

// follow is copy for the first process, whose owner may change meanwhile: a
// session without input goes on with the new one.
func (p *program) follow(c *cli.Context, h *launch.Handle, s session) (workload.Exit, error) {
	for {
		exit, err := p.copy(s)
		if !errors.Is(err, control.ErrUpgraded) {
			return exit, err
		}
		if s.stdin {
			return exit, fmt.Errorf("%w: hvctl attach %s goes on; input that the process has not read yet is lost", err, h.Name())
		}
		fmt.Fprintf(p.stderr, "hvctl: %s: it has a new owner process; what it said at that moment is in `hvctl logs %s`\n", h.Name(), h.Name())
		if s.stream, err = h.Attach(c.Context, control.AttachRequest{}); err != nil {
			return exit, err
		}
	}
}
