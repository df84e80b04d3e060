package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// version is set by the linker.
var version = "dev"

// program is the command line and what it reaches of the world.
type program struct {
	backends   []backendEntry
	openImages func(dir string) (*images.Store, error)
	stdin      *os.File
	stdout     io.Writer
	stderr     io.Writer
}

// exitStatus ends the program with a code and no message.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a command line that makes no sense.
type usageError struct {
	err     error
	command string
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%v; see `%s --help`", e.err, e.command)
}

func usagef(c *cli.Context, format string, a ...any) error {
	return &usageError{err: fmt.Errorf(format, a...), command: c.Command.HelpName}
}

// run is the whole program; it returns the exit code.
func (p *program) run(args []string) int {
	out := &outlet{w: p.stdout}
	p.stdout = out
	code := p.execute(args)
	if err := out.lost.Load(); err != nil && code == 0 {
		fmt.Fprintf(p.stderr, "hvctl: standard output: %v\n", *err)
		return workload.ExitOwnFailure
	}
	return code
}

func (p *program) execute(args []string) int {
	app := p.app()
	if args[len(args)-1] == completionFlag {
		var done bool
		if args, done = completion(app, args, p.stdout); done {
			return 0
		}
	} else {
		args = permute(app, args)
	}
	err := app.Run(args)
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	// One line: an error joined of several has a line each.
	fmt.Fprintf(p.stderr, "hvctl: %s%s\n", strings.ReplaceAll(err.Error(), "\n", "; "), permissionHint(err, os.Geteuid()))
	if start, ok := errors.AsType[*workload.StartError](err); ok {
		return start.Code
	}
	return workload.ExitOwnFailure
}

// permissionHint says what a user who is not root can do about a file that is
// another user's.
func permissionHint(err error, uid int) string {
	if uid == 0 || !errors.Is(err, fs.ErrPermission) {
		return ""
	}
	return fmt.Sprintf(" (as user %d: be root, or choose a --store and --root of your own; `hvctl doctor` tells what else is missing)", uid)
}

func (p *program) app() *cli.App {
	app := &cli.App{
		Name:     "hvctl",
		HelpName: "hvctl",
		Usage:    "run OCI workloads as microVMs and as containers",
		Version:  version,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "root", EnvVars: []string{"HVCTL_ROOT"}, Usage: "keep the state of instances in `DIR`", DefaultText: "/run/hvctl, or $XDG_RUNTIME_DIR/hvctl"},
			&cli.StringFlag{Name: "store", EnvVars: []string{"HVCTL_STORE"}, Usage: "keep images and kernels in `DIR`", DefaultText: "/var/lib/hvctl, or ~/.local/share/hvctl"},
			&cli.BoolFlag{Name: "debug", Usage: "the same as --log-level debug"},
			&cli.StringFlag{Name: "log-level", Value: "info", Usage: "what owner processes write to owner.log: `LEVEL` debug, info, warn or error"},
		},
		Commands: []*cli.Command{
			p.cmdRun(), p.cmdCreate(), p.cmdStart(), p.cmdPs(), p.cmdInspect(), p.cmdLogs(), p.cmdExec(), p.cmdAttach(),
			p.cmdStop(), p.cmdKill(), p.cmdPause(), p.cmdResume(), p.cmdWait(), p.cmdRm(), p.cmdUpdate(), p.cmdDevice(), p.cmdStats(), p.cmdTop(), p.cmdMetrics(), p.cmdTrace(), p.cmdCp(), p.cmdEvents(),
			p.cmdPull(), p.cmdImport(), p.cmdImages(), p.cmdRmi(), p.cmdTag(), p.cmdPrune(), p.cmdKernel(), p.cmdBoot(),
			p.cmdDump(), p.cmdSnapshot(), p.cmdRestore(), p.cmdClone(), p.cmdMigrate(), p.cmdUpgrade(),
			p.cmdDoctor(), p.cmdBench(), p.cmdConfig(), p.cmdOCI(), p.cmdVersion(), p.cmdCompletion(), p.cmdDocs(),
		},
		EnableBashCompletion:      true,
		HideHelpCommand:           true,
		HideVersion:               true,
		DisableSliceFlagSeparator: true, // -e A=1,2 is one value
		Reader:                    p.stdin,
		Writer:                    p.stdout,
		ErrWriter:                 p.stderr,
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              onUsageError,
		Before: func(c *cli.Context) error {
			_, err := logLevel(c)
			return err
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return &usageError{err: fmt.Errorf("unknown command %q", c.Args().First()), command: "hvctl"}
			}
			return cli.ShowAppHelp(c)
		},
	}
	setUp(app.Commands)
	return app
}

// setUp gives every command what all of them have.
func setUp(cmds []*cli.Command) {
	for _, c := range cmds {
		c.OnUsageError = onUsageError
		c.UseShortOptionHandling = true // -it
		c.HideHelpCommand = true
		setUp(c.Subcommands)
	}
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	name := "hvctl"
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName
	}
	return &usageError{err: err, command: name}
}

// logLevel is the level that owners log from, as slog writes it.
func logLevel(c *cli.Context) (string, error) {
	var l slog.Level
	name := c.String("log-level")
	if c.Bool("debug") {
		name = "debug"
	}
	if err := l.UnmarshalText([]byte(name)); err != nil {
		return "", &usageError{err: fmt.Errorf("log level %q: use debug, info, warn or error", name), command: "hvctl"}
	}
	return l.String(), nil
}

// rootDir is where the state of instances is.
func rootDir(c *cli.Context) string {
	if d := c.String("root"); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return "/run/hvctl"
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "hvctl")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("hvctl-%d", os.Geteuid()))
}

// storeDir is where images and kernels are.
func storeDir(c *cli.Context) (string, error) {
	d := c.String("store")
	if d == "" {
		if os.Geteuid() == 0 {
			return "/var/lib/hvctl", nil
		}
		if d = os.Getenv("XDG_DATA_HOME"); d == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", fmt.Errorf("image store: %w; use --store DIR", err)
			}
			d = filepath.Join(home, ".local", "share")
		}
		d = filepath.Join(d, "hvctl")
	}
	return filepath.Abs(d)
}

func (p *program) instances(c *cli.Context) (*instance.Store, error) {
	s, err := instance.OpenStore(rootDir(c))
	if err != nil {
		return nil, err
	}
	// Best effort: rm says why the one it is about could not be removed.
	_ = launch.Sweep(c.Context, s)
	return s, nil
}

func (p *program) images(c *cli.Context) (*images.Store, error) {
	d, err := storeDir(c)
	if err != nil {
		return nil, err
	}
	return p.openImages(d)
}

// handle finds the instance ref.
func (p *program) handle(c *cli.Context, ref string) (*launch.Handle, error) {
	s, err := p.instances(c)
	if err != nil {
		return nil, err
	}
	i, err := s.Open(ref)
	if err != nil {
		return nil, err
	}
	b, err := p.backend(c, i.Config().Backend)
	if err != nil {
		b = nil // an instance of another build can be looked at and stopped
	}
	return launch.NewHandle(i, b), nil
}

// one runs fn on the instance that is the only argument.
func (p *program) one(fn func(c *cli.Context, h *launch.Handle) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() != 1 {
			return usagef(c, "%d arguments given, want one instance", c.NArg())
		}
		h, err := p.handle(c, c.Args().First())
		if err != nil {
			return err
		}
		return fn(c, h)
	}
}

// each runs fn on every instance named, goes on after errors, and prints the
// names of those it worked on.
func (p *program) each(fn func(c *cli.Context, h *launch.Handle) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() == 0 {
			return usagef(c, "no instance given")
		}
		var errs []error
		for _, ref := range c.Args().Slice() {
			h, err := p.handle(c, ref)
			if err == nil {
				err = fn(c, h)
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			fmt.Fprintln(p.stdout, ref)
		}
		return errors.Join(errs...)
	}
}

// interruptible is c's context, ended by SIGINT and SIGTERM, for work that
// has something to clean up.
func interruptible(c *cli.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(c.Context, unix.SIGINT, unix.SIGTERM)
}
