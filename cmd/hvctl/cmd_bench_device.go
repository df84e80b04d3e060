package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/internal/bench/device"
	"github.com/urfave/cli/v2"
)

func deviceFlags(own ...cli.Flag) []cli.Flag {
	return resultFlags(append(own,
		&cli.StringFlag{Name: "kernel", EnvVars: []string{"HVCTL_KERNEL"}, Usage: "boot the kernel `NAME|FILE`", DefaultText: "the default of the kernel store"},
		&cli.StringFlag{Name: "transports", Value: "mmio,pci", Usage: "measure these transports: `LIST`"},
		&cli.StringFlag{Name: "tests", Usage: "do these tests only: `LIST`", DefaultText: "all"},
		&cli.IntFlag{Name: "memory", Value: 256, Usage: "`MIB` of memory"},
		&cli.IntFlag{Name: "iterations", Aliases: []string{"n"}, Value: 3, Usage: "measure every target `NUMBER` times"},
		&cli.StringFlag{Name: "peer", Usage: "compare with QEMU: `PATH` of qemu-system-x86_64"},
	)...)
}

func (p *program) cmdBenchIO() *cli.Command {
	return &cli.Command{
		Name:  "io",
		Usage: "time a guest's disk I/O, and count the VM exits that it takes",
		Description: "The guest is a kernel and a probe. The disk's content is lost. The peer is QEMU's microvm\n" +
			"machine with the same kernel and probe, an iothread and io_uring. Needs root and debugfs.",
		Flags: deviceFlags(
			&cli.StringFlag{Name: "disk", Required: true, Usage: "measure with this `FILE` or block device; WHAT IT HOLDS IS OVERWRITTEN"},
			&cli.StringSliceFlag{Name: "variant", Usage: "measure a disk with these options, `KEY=VALUE,...` as for --disk", DefaultText: "no options"},
		),
		Action: func(c *cli.Context) error {
			variants := c.StringSlice("variant")
			if len(variants) == 0 {
				variants = []string{""}
			}
			s, err := device.Disk(c.String("disk"), variants)
			if err != nil {
				return err
			}
			return p.benchDevice(c, s, device.Result{Subject: "disk I/O", Disk: c.String("disk")})
		},
	}
}

func (p *program) cmdBenchNet() *cli.Command {
	return &cli.Command{
		Name:  "net",
		Usage: "time a guest's network, and count the VM exits that it takes",
		Description: "The guest is a kernel and a probe, which talks over a tap to a server in this process:\n" +
			"streams both ways, requests and answers of a byte, connections, bursts of small datagrams.\n" +
			"The peer is QEMU's microvm machine on the same tap, and with vhost-net where the host has\n" +
			"it. Needs root and debugfs.",
		Flags: deviceFlags(),
		Action: func(c *cli.Context) (err error) {
			n, err := device.NewNetwork()
			if err != nil {
				return err
			}
			defer func() {
				if cerr := n.Close(); err == nil {
					err = cerr
				}
			}()
			return p.benchDevice(c, n.Subject, device.Result{Subject: "network"})
		},
	}
}

// benchDevice measures s and keeps what r becomes.
func (p *program) benchDevice(c *cli.Context, s device.Subject, r device.Result) error {
	g, err := ground(c)
	if err != nil {
		return err
	}
	defer g.remove()
	r.Header = header(c)
	r.Kernel, r.MemoryMiB = c.String("kernel"), c.Int("memory")
	ctx, stop := interruptible(c)
	defer stop()
	r.Samples, err = device.Run(ctx, device.Options{
		Hvctl: g.hvctl, Root: g.root, Store: g.store, Probe: filepath.Join(filepath.Dir(g.hvctl), "hvprobe"), Kernel: r.Kernel,
		Tests: c.String("tests"), MemoryMiB: r.MemoryMiB, Iterations: c.Int("iterations"), QEMU: c.String("peer"),
		Transports: strings.FieldsFunc(c.String("transports"), func(r rune) bool { return r == ',' }),
		Progress:   func(done, all int, target string) { fmt.Fprintf(p.stderr, "%d of %d: %s\n", done+1, all, target) },
	}, s)
	return p.keep(c, &r, len(r.Samples), err)
}
