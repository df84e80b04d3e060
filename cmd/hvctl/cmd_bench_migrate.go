package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/bench/migrate"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdBenchMigrate() *cli.Command {
	return &cli.Command{
		Name:  "migrate",
		Usage: "time live migrations over a link of a given rate",
		Description: "The guest writes to memory at a steady rate, in percent of what the link carries. The peer\n" +
			"is QEMU's microvm machine with the same kernel, guest, memory and link. Needs root.",
		Flags: resultFlags(
			&cli.StringFlag{Name: "kernel", EnvVars: []string{"HVCTL_KERNEL"}, Usage: "boot the kernel `NAME|FILE`", DefaultText: "the default of the kernel store"},
			&cli.IntFlag{Name: "cpus", Value: 1, Usage: "`NUMBER` of processors"},
			&cli.IntFlag{Name: "memory", Value: 256, Usage: "`MIB` of memory"},
			&cli.IntFlag{Name: "filled", Value: 64, Usage: "`MIB` of it have content that stays"},
			&cli.IntFlag{Name: "changing", Value: 32, Usage: "`MIB` of it are written to in turn"},
			&cli.StringFlag{Name: "loads", Value: "0,10,50,90", Usage: "measure with these rates: `LIST` in percent of the link"},
			&cli.StringFlag{Name: "link", Value: "125M", Usage: "the link carries `SIZE` a second"},
			&cli.StringFlag{Name: "streams", Value: "1", Usage: "measure with these numbers of connections: `LIST`"},
			&cli.BoolFlag{Name: "tls", Usage: "measure with TLS, too"},
			&cli.DurationFlag{Name: "downtime", Value: 50 * time.Millisecond, Usage: "ask for a blackout of `TIME`"},
			&cli.DurationFlag{Name: "timeout", Value: 2 * time.Minute, Usage: "give each migration `TIME`"},
			&cli.IntFlag{Name: "iterations", Aliases: []string{"n"}, Value: 3, Usage: "measure every cell `NUMBER` times"},
			&cli.StringFlag{Name: "peer", Usage: "compare with QEMU: `PATH` of qemu-system-x86_64"},
		),
		Action: p.benchMigrate,
	}
}

// cmdBenchVMM is what `bench migrate` starts twice.
func (p *program) cmdBenchVMM() *cli.Command {
	return &cli.Command{
		Name: "migrate-vmm", Hidden: true, Usage: "hold a machine for `bench migrate`",
		Action: func(c *cli.Context) error { return migrate.VMM(c.Context, p.stdin, p.stdout) },
	}
}

func (p *program) benchMigrate(c *cli.Context) error {
	o := migrate.Options{
		CPUs: c.Int("cpus"), MemoryMiB: c.Int("memory"), FillMiB: c.Int("filled"), SetMiB: c.Int("changing"),
		Iterations: c.Int("iterations"), TLS: c.Bool("tls"), Downtime: c.Duration("downtime"), Timeout: c.Duration("timeout"), QEMU: c.String("peer"),
		Progress: func(done, all int, what string) { fmt.Fprintf(p.stderr, "%d of %d: %s\n", done+1, all, what) },
	}
	var err error
	if o.Loads, err = numbers(c.String("loads"), 0, 1000); err != nil {
		return usagef(c, "--loads: %w", err)
	}
	if o.Streams, err = numbers(c.String("streams"), 1, 16); err != nil {
		return usagef(c, "--streams: %w", err)
	}
	if o.LinkRate, err = parseSize(c.String("link")); err != nil || o.LinkRate < 1<<20 {
		return usagef(c, "--link %q: want at least 1M", c.String("link"))
	}
	if free := o.MemoryMiB - o.FillMiB - o.SetMiB; o.FillMiB < 0 || o.SetMiB < 1 || free < 48 || o.Iterations < 1 {
		return usagef(c, "--memory %d leaves %d MiB for Linux, want at least 48; --changing and --iterations want at least 1", o.MemoryMiB, free)
	}
	store, err := p.kernels(c)
	if err != nil {
		return err
	}
	k, err := store.Get(c.String("kernel"))
	if err != nil {
		return err
	}
	o.Kernel = k.Path
	if o.Hvctl, err = os.Executable(); err != nil {
		return err
	}
	o.Hvdirty = filepath.Join(filepath.Dir(o.Hvctl), "hvdirty")
	if o.Dir, err = os.MkdirTemp("", "hvbench"); err != nil {
		return err
	}
	defer os.RemoveAll(o.Dir)
	ctx, stop := interruptible(c)
	defer stop()
	r := migrate.Result{
		Header: header(c), Kernel: k.Name, CPUs: o.CPUs, MemoryMiB: o.MemoryMiB,
		FillMiB: o.FillMiB, SetMiB: o.SetMiB, LinkRate: o.LinkRate, DowntimeMs: o.Downtime.Milliseconds(),
	}
	r.Samples, r.PlainRate, err = migrate.Run(ctx, o)
	return p.keep(c, &r, len(r.Samples), err)
}

// numbers reads a list of whole numbers.
func numbers(list string, least, most int) (all []int, err error) {
	for f := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < least || n > most {
			return nil, fmt.Errorf("%q: want a list of numbers from %d to %d", list, least, most)
		}
		all = append(all, n)
	}
	return all, nil
}
