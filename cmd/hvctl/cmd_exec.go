package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

func (p *program) cmdExec() *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "run another process in a running instance",
		ArgsUsage: "INSTANCE COMMAND [ARG...]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "run in the background and print the session's ID"},
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "forward standard input"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the process a terminal"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set `NAME=VALUE`; NAME alone takes ours"},
			&cli.StringSliceFlag{Name: "env-file", Usage: "read variables from `FILE`, one a line"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "start in `DIR`"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "run as `NAME|UID[:GROUP|GID]`"},
			&cli.BoolFlag{Name: "privileged", Usage: "with every capability"},
			detachFlag(),
		},
		BashComplete: p.completeInstances(workload.Running),
		Action:       p.exec,
	}
}

func (p *program) exec(c *cli.Context) error {
	if c.NArg() < 2 {
		return usagef(c, "want an instance and a command")
	}
	h, err := p.handle(c, c.Args().First())
	if err != nil {
		return err
	}
	proc, err := p.execProcess(c, h.Config().Spec.Process)
	if err != nil {
		return err
	}
	keys, err := parseDetachKeys(c.String("detach-keys"))
	if err != nil {
		return err
	}
	stdin, tty := c.Bool("interactive"), c.Bool("tty")
	if c.Bool("detach") {
		id, err := h.ExecDetached(c.Context, control.ExecRequest{Process: proc})
		if err != nil {
			return named(h, err)
		}
		fmt.Fprintln(p.stdout, id)
		return nil
	}
	if tty && stdin && !term.IsTerminal(int(p.stdin.Fd())) {
		return errors.New("-t: standard input is no terminal; leave -t out")
	}
	s, err := h.Exec(c.Context, control.ExecRequest{Process: proc, Stdin: stdin})
	if err != nil {
		return named(h, err)
	}
	exit, err := p.copy(session{stream: s, stdin: stdin, tty: tty, detachKeys: keys, proxy: !(tty && stdin)})
	switch {
	case errors.Is(err, control.ErrDetached):
		return nil
	case err != nil && exit.At.IsZero():
		return named(h, err)
	}
	return p.status(h.Name(), exit)
}

// execProcess is the process to run beside first, which it takes its
// environment, user and directory from.
func (p *program) execProcess(c *cli.Context, first *specs.Process) (*specs.Process, error) {
	env, err := environ(c.StringSlice("env-file"), c.StringSlice("env"))
	if err != nil {
		return nil, err
	}
	o := workload.SpecOptions{
		Image: workload.ImageDefaults{Env: first.Env, WorkingDir: first.Cwd},
		Args:  c.Args().Tail(), Env: env, Cwd: c.String("workdir"), User: c.String("user"),
		Terminal: c.Bool("tty"), Rlimits: first.Rlimits, NoNewPrivs: first.NoNewPrivileges,
	}
	if !first.Terminal && o.Terminal && !slices.ContainsFunc(first.Env, func(s string) bool { return strings.HasPrefix(s, "TERM=") }) {
		o.Image.Env = append([]string{"TERM=xterm"}, first.Env...)
	}
	if c.Bool("privileged") {
		o.CapAdd = []string{"ALL"}
	}
	if o.Terminal {
		o.Columns, o.Rows = p.terminalSize()
	}
	proc, err := workload.NewProcess(o)
	if err != nil {
		return nil, err
	}
	if !c.IsSet("user") {
		proc.User = first.User
		if !c.Bool("privileged") {
			proc.Capabilities = first.Capabilities
		}
	}
	return proc, nil
}

// named says which instance an error is about.
func named(h *launch.Handle, err error) error {
	if errors.Is(err, workload.ErrNotRunning) && strings.HasPrefix(err.Error(), h.Name()+": ") {
		return err
	}
	return fmt.Errorf("%s: %w", h.Name(), err)
}
