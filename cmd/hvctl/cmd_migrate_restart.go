package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/restart"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/plan"
	"github.com/hvctl/hvctl/migrate/transport"
)

// modeRestart is the --mode of instances that are started afresh at their destination.
const modeRestart = "restart"

// goesOn refuses modes in which a container cannot be moved, with the one in which it can.
func goesOn(h *launch.Handle) error {
	if h.Config().Backend == "container" {
		return fmt.Errorf("%s: a container cannot go on elsewhere; with --mode restart its image, configuration and writable layer go there, and it is started afresh", h.Name())
	}
	return nil
}

// move reads the flags of a command that sends h by --mode restart, or plans to.
func (p *program) move(c *cli.Context, h *launch.Handle) (*restart.Move, error) {
	for _, name := range []string{"downtime", "timeout", "on-timeout", "probe", "timeline"} {
		if c.IsSet(name) {
			return nil, usagef(c, "--%s: has no meaning with --mode restart: nothing runs while it is moved", name)
		}
	}
	to, err := p.endpoint(c, c.String("to"))
	if err != nil {
		return nil, err
	}
	if err := checkBinds(c); err != nil {
		return nil, err
	}
	o, err := p.transportOf(to)
	if err != nil {
		return nil, err
	}
	m := &restart.Move{H: h, To: to.Address, Binds: c.StringSlice("bind"), Streams: c.Int("streams"), Log: p.warnings(c)}
	if m.Dial, err = transport.Dial(to.Address, o); err != nil {
		return nil, err
	}
	if s := c.String("compress"); s != "" {
		if m.Compress, err = migrate.ParseCompress(s); err != nil {
			return nil, usagef(c, "--compress: %w", err)
		}
	}
	if s := c.String("rate"); s != "" {
		if m.Rate, err = parseSize(s); err != nil {
			return nil, usagef(c, "%w", err)
		}
	}
	m.Doubt = func() {
		fmt.Fprintf(p.stderr, "%s: whether it runs at %s by now is in doubt; it stands still here, and %s is asked until it answers or this is interrupted\n", h.Name(), m.To, m.To)
	}
	return m, nil
}

// transportOf is how e is reached, or listened at, by this command.
func (p *program) transportOf(e workload.Endpoint) (o transport.Options, err error) {
	if strings.HasPrefix(e.Address, "unix:") {
		return o, nil
	}
	if err := os.MkdirAll(e.Identity, 0o700); err != nil {
		return o, err
	}
	o.Allow = e.Allow
	o.Identity, err = transport.LoadIdentity(e.Identity)
	return o, err
}

// warnings is a log that says what a user has to know.
func (p *program) warnings(c *cli.Context) *slog.Logger {
	level := slog.LevelWarn
	if s, err := logLevel(c); err == nil && (c.IsSet("log-level") || c.Bool("debug")) {
		_ = level.UnmarshalText([]byte(s)) // logLevel has judged it
	}
	return slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level}))
}

func (p *program) planRestart(c *cli.Context, h *launch.Handle) (plan.Plan, error) {
	m, err := p.move(c, h)
	if err != nil {
		return plan.Plan{}, err
	}
	made, err := m.Plan(c.Context)
	if err != nil {
		return plan.Plan{}, named(h, err)
	}
	return made, nil
}

func (p *program) sendRestart(c *cli.Context, h *launch.Handle) error {
	m, err := p.move(c, h)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	report, err := m.Send(ctx)
	switch {
	case err != nil:
		return named(h, err)
	case report == nil: // it was in doubt, and is not any more
		fmt.Fprintf(p.stderr, "%s runs at %s\n", h.Name(), m.To)
		return nil
	case c.Bool("json"):
		return p.printJSON(report)
	}
	return report.WriteTable(p.stdout)
}

// receiveRestart waits for an instance that is started afresh, and prints its ID.
func (p *program) receiveRestart(ctx context.Context, c *cli.Context, at workload.Endpoint) error {
	if c.Bool("rm") {
		return usagef(c, "--rm: not with --mode restart: the record of who runs the instance would go with it, while the source may still ask")
	}
	if c.IsSet("share") {
		return usagef(c, "--share: not with --mode restart: nothing that is started afresh has directories of its hosts")
	}
	store, err := p.images(c)
	if err != nil {
		return err
	}
	cfg, b, err := p.newcomer(c, c.String("name"), "container")
	if err != nil {
		return err
	}
	o, err := p.transportOf(at)
	if err != nil {
		return err
	}
	s, err := p.instances(c)
	if err != nil {
		return err
	}
	i, err := newInstance(c, s, cfg, instance.CreateOptions{Replace: c.Bool("replace"), Created: true})
	if err != nil {
		return err
	}
	failed := func(err error) error {
		if i.LockFile() != nil { // no owner has it
			i.Unlock()
		}
		return p.startFailed(ctx, launch.NewHandle(i, b), err)
	}
	backends := map[string]workload.Backend{}
	for _, e := range p.backends {
		if b, err := p.backend(c, e.name); err == nil { // else none of its kind can come
			backends[e.name] = b
		}
	}
	a := restart.Arrival{Instance: i, Backends: backends, Images: filepath.Join(store.Dir(), "derived"), Root: os.Geteuid() == 0, Log: p.warnings(c)}
	if a.Options.LogLevel, err = logLevel(c); err != nil {
		return failed(err)
	}
	l, err := transport.Listen(at.Address, o)
	if err != nil {
		return failed(err)
	}
	if err := a.Receive(ctx, l, func() { fmt.Fprintln(p.stdout, i.ID()) }); err != nil {
		return failed(err)
	}
	return nil
}
