package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

func (p *program) cmdRun() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "run an image as a new instance",
		ArgsUsage: "IMAGE [COMMAND [ARG...]]",
		Description: "The exit status is the workload's: its own code, or 128 and the number of the\n" +
			"signal that ended it. 125 is a failure of hvctl itself, 126 a command that\n" +
			"cannot be executed, 127 one that does not exist.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "run in the background and print the ID"},
			detachFlag(),
			&cli.BoolFlag{Name: "sig-proxy", Value: true, Usage: "pass signals on to the process"},
		}, workloadFlags()...),
		BashComplete: p.completeImages,
		Action:       p.run1,
	}
}

func (p *program) run1(c *cli.Context) error {
	detach, tty, stdin := c.Bool("detach"), c.Bool("tty"), c.Bool("interactive")
	if tty && stdin && !detach && !term.IsTerminal(int(p.stdin.Fd())) {
		return errors.New("-t: standard input is no terminal; leave -t out")
	}
	keys, err := parseDetachKeys(c.String("detach-keys"))
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	h, run, err := p.launch(ctx, c, launch.Options{Attach: !detach, StdinOnce: stdin && !tty})
	if err != nil {
		return err
	}
	if detach {
		fmt.Fprintln(p.stdout, h.ID())
		return nil
	}
	stop() // from here on signals are the workload's
	exit, err := p.follow(c, h, session{stream: run.Stream, stdin: stdin, tty: tty, detachKeys: keys, proxy: c.Bool("sig-proxy") && !(tty && stdin)})
	err = p.ended(c.Context, h, exit, err)
	if exit != (workload.Exit{}) {
		run.WaitOwner(ownerGrace)
	}
	return err
}

// launch makes a new instance from the flags and starts it.
func (p *program) launch(ctx context.Context, c *cli.Context, o launch.Options) (*launch.Handle, *launch.Running, error) {
	cfg, b, err := p.config(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	return p.launchConfig(ctx, c, b, cfg, o)
}

func (p *program) launchConfig(ctx context.Context, c *cli.Context, b workload.Backend, cfg *workload.Config, o launch.Options) (*launch.Handle, *launch.Running, error) {
	s, err := p.instances(c)
	if err != nil {
		return nil, nil, err
	}
	i, err := newInstance(c, s, cfg, instance.CreateOptions{Replace: c.Bool("replace")})
	if err != nil {
		return nil, nil, err
	}
	if o.LogLevel, err = logLevel(c); err != nil {
		return nil, nil, err
	}
	h := launch.NewHandle(i, b)
	run, err := launch.Start(ctx, b, i, o)
	if err != nil {
		return nil, nil, p.startFailed(ctx, h, err)
	}
	return h, run, nil
}

// startFailed removes what is left of an instance that never ran: its name
// and directory are of no use to anybody.
func (p *program) startFailed(ctx context.Context, h *launch.Handle, err error) error {
	if derr := h.Delete(context.WithoutCancel(ctx)); derr != nil && !errors.Is(derr, workload.ErrNotFound) {
		if _, gone := h.Instance.State(); !errors.Is(gone, workload.ErrNotFound) {
			err = fmt.Errorf("%w (and %w)", err, derr)
		}
	}
	if _, told := errors.AsType[*workload.StartError](err); !told && h.Backend != nil {
		// Its owner did not say why: it was killed, and may have left something.
		if cerr := cleanup(context.WithoutCancel(ctx), h.Backend, h); cerr != nil {
			err = fmt.Errorf("%w (and %w)", err, cerr)
		}
	}
	return fmt.Errorf("%s: %w", h.Name(), err)
}
