package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/snapshots"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdRestore() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "let a new instance go on from a snapshot, and print its ID",
		ArgsUsage: "SNAPSHOT",
		Description: "The instance is a copy with an identity of its own: ID, addresses, hostname,\n" +
			"random numbers, VM generation ID and clock are new; connections of the original\n" +
			"are broken. The original may be running. Its published ports are published\n" +
			"again unless --publish or --no-publish says otherwise.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "call the instance `NAME`", DefaultText: "two words"},
			&cli.BoolFlag{Name: "replace", Usage: "remove an ended instance of the same name first"},
			&cli.BoolFlag{Name: "rm", Usage: "remove the instance when it ends"},
			&cli.BoolFlag{Name: "copy", Usage: "read all memory at once and check it, in place of reading pages when they are touched"},
			&cli.BoolFlag{Name: "lazy", Usage: "check pages when they are touched, and read ahead what the first such restore touched"},
			&cli.StringFlag{Name: "hostname", Usage: "hostname `NAME`", DefaultText: "the original's if it was given, else the short ID"},
			&cli.StringSliceFlag{Name: "publish", Aliases: []string{"p"}, Usage: "publish `[IP:]HOSTPORT:PORT[/PROTO]` on the host, in place of the original's ports"},
			&cli.BoolFlag{Name: "no-publish", Usage: "publish no ports"},
			&cli.StringFlag{Name: "ip", Usage: "IPv4 `ADDRESS` on the bridge", DefaultText: "the next free one"},
			&cli.StringFlag{Name: "mac-address", Usage: "MAC `ADDRESS`", DefaultText: "derived from the ID"},
		},
		BashComplete: p.completeSnapshots,
		Action:       p.oneSnapshot(p.restore),
	}
}

func (p *program) restore(c *cli.Context, s *snapshots.Snapshot) error {
	cfg, err := p.copyConfig(c, s, s.Description.Config)
	if err != nil {
		return err
	}
	store, err := p.snapshots(c)
	if err != nil {
		return err
	}
	bases, err := store.Bases(s)
	if err != nil {
		return err
	}
	cfg.VM.Restore.Bases = store.Files(bases)
	if err := restoredNetwork(c, &cfg.Net); err != nil {
		return &usageError{err: err, command: c.Command.HelpName}
	}
	cfg.Name, cfg.VM.Restore.Copy, cfg.VM.Restore.Lazy = c.String("name"), c.Bool("copy"), c.Bool("lazy")
	if cfg.VM.Restore.Copy && cfg.VM.Restore.Lazy {
		return usagef(c, "--copy and --lazy: choose one")
	}
	b, err := p.backend(c, cfg.Backend)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	h, _, err := p.launchConfig(ctx, c, b, cfg, launch.Options{})
	if err != nil {
		return err
	}
	fmt.Fprintln(p.stdout, h.ID())
	return nil
}

// copyConfig makes cfg, which is the original's, that of a copy: with another
// identity, no name, and no addresses.
func (p *program) copyConfig(c *cli.Context, s *snapshots.Snapshot, cfg *workload.Config) (*workload.Config, error) {
	short := cfg.ID[:min(12, len(cfg.ID))]
	cfg.ID, cfg.Name, cfg.AutoRemove, cfg.DataDir = instance.NewID(), "", c.Bool("rm"), ""
	cfg.Net.MAC, cfg.Net.IP = "", netip.Addr{}
	switch {
	case c.String("hostname") != "":
		cfg.Spec.Hostname = c.String("hostname")
	case cfg.Spec.Hostname == short:
		cfg.Spec.Hostname = cfg.ID[:12]
	}
	if err := workload.CheckHostname(cfg.Spec.Hostname); err != nil {
		return nil, &usageError{err: err, command: c.Command.HelpName}
	}
	cfg.VM.Restore = &workload.Restore{File: s.File().Name()}
	for i, d := range s.Description.Disks {
		if d.Name == "" {
			continue
		}
		dir, err := dataDir(c, cfg.ID)
		if err != nil {
			return nil, err
		}
		cfg.DataDir = dir
		cfg.VM.Disks[i].Path = filepath.Join(dir, filepath.Base(d.Name))
	}
	return cfg, nil
}

// dataDir is where an instance may keep what is its own.
func dataDir(c *cli.Context, id string) (string, error) {
	store, err := storeDir(c)
	if err != nil {
		return "", err
	}
	return filepath.Abs(filepath.Join(store, "instances", id))
}

// restoredNetwork reads what the copy is to have of the network.
func restoredNetwork(c *cli.Context, n *workload.Network) error {
	var errs []error
	if s := c.String("mac-address"); s != "" {
		m, err := parseMAC(s)
		errs, n.MAC = append(errs, err), m
	}
	if s := c.String("ip"); s != "" {
		a, err := netip.ParseAddr(s)
		if err != nil {
			err = fmt.Errorf("--ip %q: no IP address", s)
		}
		errs, n.IP = append(errs, err), a
	}
	if c.Bool("no-publish") || c.IsSet("publish") {
		n.Publish = nil
	}
	for _, s := range c.StringSlice("publish") {
		port, err := parsePort(s)
		errs, n.Publish = append(errs, err), append(n.Publish, port)
	}
	if (len(n.Publish) > 0 || c.IsSet("ip") || c.IsSet("mac-address")) && !n.Attached() {
		errs = append(errs, errors.New("the original has no network: --publish, --ip and --mac-address have no meaning"))
	}
	return errors.Join(errs...)
}
