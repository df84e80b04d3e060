package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/restart"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/transport"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdMigrate() *cli.Command {
	return &cli.Command{
		Name:        "migrate",
		Usage:       "move running VMs to another owner process, while they run, and containers to be started afresh",
		Subcommands: []*cli.Command{p.cmdMigratePlan(), p.cmdMigrateSend(), p.cmdMigrateReceive(), p.cmdMigrateOffer(), p.cmdMigratePull(), cmdMigrateDial(), p.cmdMigrateDesk(), p.cmdMigrateReach(), p.cmdMigrateStatus(), p.cmdMigrateInspect(), p.cmdMigrateCancel(), p.cmdMigrateRecover(), p.cmdMigrateResolve(), p.cmdMigrateIdentity()},
	}
}

func (p *program) cmdMigrateSend() *cli.Command {
	return &cli.Command{
		Name:      "send",
		Usage:     "move a running instance to where `hvctl migrate receive` waits for it",
		ArgsUsage: "INSTANCE",
		Description: "Memory is copied while the VM runs, in rounds, until the rest can be copied in\n" +
			"the downtime aimed at. Then it stops here and goes on there. Up to that moment\n" +
			"any failure leaves it running here. A VM that writes faster than it can be copied is\n" +
			"left here after 30 rounds or --timeout, moved all the same (force), slowed down\n" +
			"until it fits (throttle), or moved with the memory that is left following when it is\n" +
			"touched (postcopy; with --mode postcopy, from the start). Then the VM depends on both\n" +
			"hosts until all has arrived: if one dies, it is lost. Between hosts the connections are TLS, and\n" +
			"each side names the other's fingerprint (`hvctl migrate identity`).\n\n" +
			"A container cannot go on elsewhere. With --mode restart its image, its configuration\n" +
			"with all its environment, and what it has written to its root file system go there,\n" +
			"and it is started afresh; what is in memory, in tmpfs and on volumes does not go. It\n" +
			"stands still meanwhile, as after a power cut for what reads its files there. Up to the\n" +
			"moment in which it is handed over any failure lets it run on here. A VM can be sent so,\n" +
			"too, with its disks, to a host whose processor or kernel is another.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "to", Required: true, Usage: "`ENDPOINT` HOST:PORT or unix:PATH"},
			allowFlag(),
		}, howFlags()...),
		BashComplete: p.completeInstances(workload.Running),
		Action:       p.one(p.migrateSend),
	}
}

// howFlags say how to copy and when to switch over.
func howFlags() []cli.Flag {
	return []cli.Flag{
		bindFlag(),
		&cli.DurationFlag{Name: "downtime", Value: 50 * time.Millisecond, Usage: "let the VM stand still for `TIME`, about"},
		&cli.DurationFlag{Name: "timeout", Usage: "copy for `TIME` at most", DefaultText: "for ever"},
		onTimeoutFlag(),
		modeFlag(),
		&cli.IntFlag{Name: "streams", Usage: "copy over `NUMBER` connections", DefaultText: "one a processor, at most 4"},
		&cli.StringFlag{Name: "rate", Usage: "send at most `SIZE` a second, such as 100M", DefaultText: "no limit"},
		&cli.StringFlag{Name: "compress", Value: string(migrate.CompressAuto), Usage: "pack memory by `METHOD` auto (while the link is slower than packing), none, s2 or zstd"},
		&cli.StringFlag{Name: "probe", Usage: "connect to `HOST:PORT` of the VM meanwhile, and report for how long it did not answer"},
		&cli.StringFlag{Name: "timeline", TakesFile: true, Usage: "draw what happened into `FILE`, as SVG"},
		jsonFlag(),
	}
}

func onTimeoutFlag() cli.Flag {
	return &cli.StringFlag{Name: "on-timeout", Value: "cancel", Usage: "for a VM that writes faster than it can be copied: `WHAT` cancel, force, throttle or postcopy"}
}

func modeFlag() cli.Flag {
	return &cli.StringFlag{Name: "mode", Value: "precopy", Usage: "`WHAT` precopy or postcopy: copy memory before, or after the VM goes; or restart: start the instance afresh"}
}

func (p *program) migrateSend(c *cli.Context, h *launch.Handle) error {
	if c.String("mode") == modeRestart {
		return p.sendRestart(c, h)
	}
	if err := goesOn(h); err != nil {
		return err
	}
	to, err := p.endpoint(c, c.String("to"))
	if err != nil {
		return err
	}
	r, err := howRequest(c)
	if err != nil {
		return err
	}
	r.To = to
	if r.Dialer, err = lendDialer(to.Address); err != nil {
		return err
	}
	defer r.Dialer.Close()
	return p.sendAway(c, h, r)
}

// howRequest reads howFlags.
func howRequest(c *cli.Context) (r workload.MigrateRequest, err error) {
	r = workload.MigrateRequest{
		DowntimeNs: int64(c.Duration("downtime")), TimeoutNs: int64(c.Duration("timeout")),
		Streams: c.Int("streams"), Binds: c.StringSlice("bind"), Compress: c.String("compress"),
	}
	if _, err := migrate.ParseCompress(r.Compress); err != nil {
		return r, usagef(c, "--compress: %w", err)
	}
	if err := readWhen(c, &r); err != nil {
		return r, err
	}
	if err := checkBinds(c); err != nil {
		return r, err
	}
	if s := c.String("rate"); s != "" {
		if r.Rate, err = parseSize(s); err != nil {
			return r, usagef(c, "%w", err)
		}
	}
	return r, nil
}

// readWhen reads onTimeoutFlag and modeFlag.
func readWhen(c *cli.Context, r *workload.MigrateRequest) error {
	r.OnTimeout = c.String("on-timeout")
	if how := migrate.OnTimeout(r.OnTimeout); how != migrate.Cancel && how != migrate.Force && how != migrate.Slow && how != migrate.Later {
		return usagef(c, "--on-timeout %q: use cancel, force, throttle or postcopy", r.OnTimeout)
	}
	switch mode := c.String("mode"); mode {
	case "precopy":
	case "postcopy":
		r.AtOnce = true
	case modeRestart:
		return usagef(c, "--mode restart: is for `hvctl migrate send`, plan and receive; an instance is not fetched so")
	default:
		return usagef(c, "--mode %q: use precopy, postcopy or restart", mode)
	}
	return nil
}

// sendAway has the VM sent, and prints the report.
func (p *program) sendAway(c *cli.Context, h *launch.Handle, r workload.MigrateRequest) error {
	done, err := lendIdentity(h, &r.To)
	if err != nil {
		return err
	}
	defer done()
	report, err := sendProbed(c, h, r)
	if err != nil {
		return err
	}
	if name := c.String("timeline"); name != "" {
		if err := drawTimeline(name, report); err != nil {
			return fmt.Errorf("it was sent, but its timeline not drawn: %w", err)
		}
	}
	if c.Bool("json") {
		return p.printJSON(report)
	}
	return report.WriteTable(p.stdout)
}

// sendProbed sends the VM, and watches it from outside if that is asked for.
func sendProbed(c *cli.Context, h *launch.Handle, r workload.MigrateRequest) (report migrate.Report, err error) {
	ctx, stop := interruptible(c)
	defer stop()
	var outside *probe
	if address := c.String("probe"); address != "" {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return report, usagef(c, "--probe %q: want HOST:PORT: %w", address, err)
		}
		outside = startProbe(address)
		defer outside.end()
	}
	b, err := h.Client.Migrate(ctx, r)
	if err != nil {
		return report, named(h, err)
	}
	if err := json.Unmarshal(b, &report); err != nil {
		return report, fmt.Errorf("report of the migration: %w", err)
	}
	if outside != nil {
		report.ProbeGap = outside.last(5 * time.Second)
	}
	// It runs elsewhere, whatever becomes of what is left here; but `hvctl rm` is to find it ended.
	ended, over := context.WithTimeout(ctx, leaveGrace)
	defer over()
	_, _ = h.Wait(ended)
	return report, nil
}

// leaveGrace is how long the owner of a VM that was sent away may take to end.
const leaveGrace = 10 * time.Second

func drawTimeline(name string, r migrate.Report) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(r.WriteSVG(f), f.Close())
}

func (p *program) cmdMigrateReceive() *cli.Command {
	return &cli.Command{
		Name:  "receive",
		Usage: "wait for a VM, let it go on as a new instance, and print its ID",
		Description: "With --mode restart it waits for an instance of either kind, and starts it afresh. It is\n" +
			"given no more than one that is run here by its image's name: neither directories, devices\n" +
			"and networks of this host, nor, to a container, capabilities beyond the usual ones. A VM has\n" +
			"the kernel of this host that is called as the one it had, or else the one used here.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "listen", Required: true, Usage: "wait at `ENDPOINT` ADDRESS:PORT or unix:PATH"},
			allowFlag(),
			&cli.StringFlag{Name: "mode", Usage: "`WHAT` restart: wait for an instance that is started afresh", DefaultText: "for a VM that goes on"},
		}, arrivalFlags()...),
		Action: p.migrateReceive,
	}
}

// arrivalFlags say what becomes of a VM that comes.
func arrivalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "name", Usage: "call the instance `NAME`", DefaultText: "two words"},
		&cli.BoolFlag{Name: "replace", Usage: "remove an ended instance of the same name first"},
		&cli.BoolFlag{Name: "rm", Usage: "remove the instance when it ends"},
		&cli.StringSliceFlag{Name: "share", Usage: "let a VM that comes have `DIR[:ro]` in place of a directory that it shared there (--bind there)"},
		&cli.StringSliceFlag{Name: "publish", Aliases: []string{"p"}, Usage: "publish `[IP:]HOSTPORT:PORT[/PROTO]` on the host, in place of the ports it had"},
	}
}

func (p *program) migrateReceive(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef(c, "%d arguments given, want none", c.NArg())
	}
	at, err := p.endpoint(c, c.String("listen"))
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	switch mode := c.String("mode"); mode {
	case "":
		return p.receiveAt(ctx, c, at, c.String("name"))
	case modeRestart:
		return p.receiveRestart(ctx, c, at)
	default:
		return usagef(c, "--mode %q: use restart, or leave it out for a VM that goes on", mode)
	}
}

// newcomer is the configuration of an instance that comes from another host, with what
// the user says of it here; the rest comes with it.
func (p *program) newcomer(c *cli.Context, name, backend string) (*workload.Config, workload.Backend, error) {
	cfg := &workload.Config{
		ID: instance.NewID(), Name: name, Backend: backend, StopTimeoutSeconds: defaultStopTimeout,
		Spec: &specs.Spec{Version: specs.Version, Process: &specs.Process{}},
	}
	var err error
	if cfg.DataDir, err = dataDir(c, cfg.ID); err != nil {
		return nil, nil, err
	}
	if cfg.Net.Publish, err = publishFlag(c); err != nil {
		return nil, nil, err
	}
	b, err := p.backend(c, backend)
	return cfg, b, err
}

// receiveAt lets a VM that comes to at go on as a new instance, and prints its ID.
func (p *program) receiveAt(ctx context.Context, c *cli.Context, at workload.Endpoint, name string) error {
	store, err := p.images(c)
	if err != nil {
		return err
	}
	images := filepath.Join(store.Dir(), "derived")
	cfg, b, err := p.newcomer(c, name, "vm")
	if err != nil {
		return err
	}
	cfg.AutoRemove = c.Bool("rm")
	lent, err := shareFlag(c)
	if err != nil {
		return err
	}
	cfg.VM = workload.VM{Receive: &workload.Receive{Endpoint: at, Images: images, Lent: lent}}
	h, _, err := p.launchConfig(ctx, c, b, cfg, launch.Options{})
	if err != nil {
		return err
	}
	fmt.Fprintln(p.stdout, h.ID())
	return nil
}

// publishFlag reads --publish; nil: it was not given.
func publishFlag(c *cli.Context) (ports []workload.Port, err error) {
	for _, s := range c.StringSlice("publish") {
		port, err := parsePort(s)
		if err != nil {
			return nil, usagef(c, "%w", err)
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// shareFlag reads --share.
func shareFlag(c *cli.Context) (lent []workload.Lent, err error) {
	for _, s := range c.StringSlice("share") {
		path, readOnly := strings.CutSuffix(s, ":ro")
		if path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
		if st, err := os.Stat(path); err != nil {
			return nil, usagef(c, "--share %s: %w", s, err)
		} else if !st.IsDir() {
			return nil, usagef(c, "--share %s: it is no directory", s)
		}
		lent = append(lent, workload.Lent{Path: path, ReadOnly: readOnly})
	}
	return lent, nil
}

func allowFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "allow", Usage: "the other host's `FINGERPRINT`; needed with HOST:PORT"}
}

// endpoint is one side of a migration's connections.
func (p *program) endpoint(c *cli.Context, address string) (workload.Endpoint, error) {
	e := workload.Endpoint{Address: address, Allow: c.StringSlice("allow")}
	path, local := strings.CutPrefix(address, "unix:")
	switch {
	case local && !filepath.IsAbs(path):
		return e, usagef(c, "%q: want unix: and an absolute path", address)
	case local:
		return e, nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return e, usagef(c, "%q: want HOST:PORT or unix:PATH: %w", address, err)
	}
	if len(e.Allow) == 0 {
		return e, usagef(c, "%s: --allow is missing: the fingerprint that `hvctl migrate identity` prints on the other host", address)
	}
	var err error
	e.Identity, err = identityDir(c)
	return e, err
}

// identityDir is where this host's key is.
func identityDir(c *cli.Context) (string, error) {
	dir, err := storeDir(c)
	if err != nil {
		return "", err
	}
	return filepath.Abs(filepath.Join(dir, "identity"))
}

func (p *program) cmdMigrateIdentity() *cli.Command {
	return &cli.Command{
		Name:        "identity",
		Usage:       "print this host's fingerprint, by which others allow it",
		Description: "The key is made when it is first asked for, and kept in the store's identity/.",
		Action: func(c *cli.Context) error {
			dir, err := identityDir(c)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			id, err := transport.LoadIdentity(dir)
			if err != nil {
				return err
			}
			fmt.Fprintln(p.stdout, id.Fingerprint())
			return nil
		},
	}
}

func (p *program) cmdMigrateResolve() *cli.Command {
	return &cli.Command{
		Name:      "resolve",
		Usage:     "say who keeps an instance whose migration is in doubt",
		ArgsUsage: "INSTANCE",
		Description: "For a VM that was handed over to a destination that does not answer any more: it stands\n" +
			"still here, and asks on by itself. To keep it here, first make sure that the\n" +
			"destination does not run it and never will (power it off).",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "keep", Required: true, Usage: "`SIDE` source or destination"},
			&cli.BoolFlag{Name: "i-have-fenced-destination", Usage: "needed to keep it at the source"},
		},
		BashComplete: p.completeInstances(workload.Running),
		Action: p.one(func(c *cli.Context, h *launch.Handle) error {
			keep := workload.Keep(c.String("keep"))
			switch {
			case keep != workload.KeepSource && keep != workload.KeepDestination:
				return usagef(c, "--keep %q: use source or destination", keep)
			case keep == workload.KeepSource && !c.Bool("i-have-fenced-destination"):
				return usagef(c, "--keep source lets the VM go on here: were it running at the destination, too, both would be damaged; power the destination off and add --i-have-fenced-destination")
			}
			afresh, err := restart.Doubtful(c.Context, h)
			if err != nil {
				return named(h, err)
			}
			if afresh {
				m := restart.Move{H: h, To: "its destination", Log: p.warnings(c)}
				if err := m.Resolve(c.Context, keep); err != nil {
					return named(h, err)
				}
				return nil
			}
			if err := h.Client.Resolve(c.Context, keep); err != nil {
				return named(h, err)
			}
			return nil
		}),
	}
}
