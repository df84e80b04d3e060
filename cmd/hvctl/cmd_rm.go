package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdRm() *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove instances",
		ArgsUsage: "INSTANCE...",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill those that run; those that do not exist are no error"},
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "every instance that does not run; with --force every instance"},
		},
		BashComplete: p.completeInstances(workload.Exited, workload.Dead, workload.Created),
		Action: func(c *cli.Context) error {
			refs := c.Args().Slice()
			if c.Bool("all") {
				all, err := p.list(c)
				if err != nil {
					return err
				}
				for _, l := range all {
					if c.Bool("force") || l.State.PID == 0 {
						refs = append(refs, l.ID)
					}
				}
			} else if len(refs) == 0 {
				return usagef(c, "no instance given")
			}
			var errs []error
			for _, ref := range refs {
				if err := p.remove(c, ref, c.Bool("force")); err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintln(p.stdout, ref)
			}
			return errors.Join(errs...)
		},
	}
}

func (p *program) remove(c *cli.Context, ref string, force bool) error {
	h, err := p.handle(c, ref)
	if errors.Is(err, instance.ErrNotFound) && force {
		return nil
	}
	if err != nil {
		return err
	}
	st, serr := h.State(c.Context)
	if force {
		err = h.ForceDelete(c.Context)
	} else {
		err = h.Delete(c.Context)
	}
	if errors.Is(err, instance.ErrLocked) && force {
		return fmt.Errorf("%s: another command is starting or removing it: try again when that has ended", h.Name())
	}
	if errors.Is(err, instance.ErrLocked) {
		return runningError(h)
	}
	if err == nil && serr == nil && st.Status != workload.Exited {
		return p.cleanup(c, h) // its owner was, or may have been, killed, maybe while it started
	}
	return err
}

// cleanup takes back what a killed owner left on the host.
func (p *program) cleanup(c *cli.Context, h *launch.Handle) error {
	b, err := p.backend(c, h.Config().Backend)
	if err != nil {
		return err
	}
	return cleanup(c.Context, b, h)
}

func cleanup(ctx context.Context, b workload.Backend, h *launch.Handle) error {
	if cl, ok := b.(workload.Cleaner); ok {
		return cl.Cleanup(ctx, filepath.Dir(h.Dir()))
	}
	return nil
}

func runningError(h *launch.Handle) error {
	return fmt.Errorf("%s: is running; use `hvctl stop %s` first, or rm --force", h.Name(), h.Name())
}
