package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	benchio "github.com/hvctl/hvctl/internal/bench/io"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdBenchIO() *cli.Command {
	return &cli.Command{
		Name:  "io",
		Usage: "time a guest's disk I/O, and count the VM exits that it takes",
		Description: "The guest is a kernel and a probe. The disk's content is lost. The peer is QEMU's microvm\n" +
			"machine with the same kernel and probe, an iothread and io_uring. Needs root and debugfs.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "disk", Required: true, Usage: "measure with this `FILE` or block device; WHAT IT HOLDS IS OVERWRITTEN"},
			&cli.StringFlag{Name: "kernel", EnvVars: []string{"HVCTL_KERNEL"}, Usage: "boot the kernel `NAME|FILE`", DefaultText: "the default of the kernel store"},
			&cli.StringFlag{Name: "transports", Value: "mmio,pci", Usage: "measure these transports: `LIST`"},
			&cli.StringSliceFlag{Name: "variant", Usage: "measure a disk with these options, `KEY=VALUE,...` as for --disk", DefaultText: "no options"},
			&cli.StringFlag{Name: "tests", Usage: "do these tests only: `LIST`", DefaultText: "all"},
			&cli.IntFlag{Name: "memory", Value: 256, Usage: "`MIB` of memory"},
			&cli.IntFlag{Name: "iterations", Aliases: []string{"n"}, Value: 3, Usage: "measure every target `NUMBER` times"},
			&cli.StringFlag{Name: "peer", Usage: "compare with QEMU: `PATH` of qemu-system-x86_64"},
			&cli.StringFlag{Name: "mode", EnvVars: []string{"HVCTL_EXEC_MODE"}, Usage: "label the result with execution `MODE`", DefaultText: "detected"},
			&cli.StringFlag{Name: "out", Usage: "keep the samples in `FILE`"},
			jsonFlag(),
		},
		Action: p.benchIO,
	}
}

func (p *program) benchIO(c *cli.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	store, err := storeDir(c)
	if err != nil {
		return err
	}
	if n := c.Int("iterations"); n < 1 {
		return usagef(c, "--iterations %d: want at least 1", n)
	}
	root, err := os.MkdirTemp("", "hvbench") // instances of its own
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	variants := c.StringSlice("variant")
	if len(variants) == 0 {
		variants = []string{""}
	}
	r := benchio.Result{
		When: time.Now().UTC(), Mode: execMode(c.String("mode")), Env: environment(),
		Kernel: c.String("kernel"), Disk: c.String("disk"), MemoryMiB: c.Int("memory"),
	}
	ctx, stop := interruptible(c)
	defer stop()
	r.Samples, err = benchio.Run(ctx, benchio.Options{
		Hvctl: self, Root: root, Store: store, Probe: filepath.Join(filepath.Dir(self), "hvprobe"), Kernel: r.Kernel,
		Disk: r.Disk, DiskFlags: variants, Tests: c.String("tests"), MemoryMiB: r.MemoryMiB, Iterations: c.Int("iterations"), QEMU: c.String("peer"),
		Transports: strings.FieldsFunc(c.String("transports"), func(r rune) bool { return r == ',' }),
		Progress:   func(done, all int, target string) { fmt.Fprintf(p.stderr, "%d of %d: %s\n", done+1, all, target) },
	})
	if err != nil && len(r.Samples) == 0 {
		return err
	}
	if kerr := p.keep(c, &r); kerr != nil {
		return kerr
	}
	return err
}
