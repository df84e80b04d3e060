package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/bench/boot"
	"github.com/hvctl/hvctl/internal/bench/record"
	"github.com/hvctl/hvctl/internal/doctor"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

func (p *program) cmdBench() *cli.Command {
	return &cli.Command{
		Name:        "bench",
		Usage:       "measure, and compare with other programs on the same input",
		Subcommands: []*cli.Command{p.cmdBenchRun(), p.cmdBenchNull(), p.cmdBenchCompare(), p.cmdBenchReport(), p.cmdBenchBoot(), p.cmdBenchIO(), p.cmdBenchNet(), p.cmdBenchStart(), p.cmdBenchSnapshot(), p.cmdBenchMigrate(), p.cmdBenchUpgrade(), p.cmdBenchVMM()},
	}
}

func (p *program) cmdBenchBoot() *cli.Command {
	return &cli.Command{
		Name:  "boot",
		Usage: "time the way from starting hvctl to a workload's first output",
		Description: "Prints the medians and when each stage was reached. The peer is QEMU's microvm machine\n" +
			"with the same kernel, initramfs, root file system and agent.",
		Flags: resultFlags(
			&cli.StringFlag{Name: "image", Value: "debian:bookworm", Usage: "run this `IMAGE`"},
			&cli.StringFlag{Name: "kernel", EnvVars: []string{"HVCTL_KERNEL"}, Usage: "boot the kernel `NAME|FILE`", DefaultText: "the default of the kernel store"},
			&cli.StringFlag{Name: "transports", Value: "mmio,pci", Usage: "measure these transports: `LIST`"},
			&cli.IntFlag{Name: "cpus", Value: 1, Usage: "`NUMBER` of processors"},
			&cli.IntFlag{Name: "memory", Value: 256, Usage: "`MIB` of memory"},
			&cli.IntFlag{Name: "iterations", Aliases: []string{"n"}, Value: 10, Usage: "start every target `NUMBER` times"},
			&cli.StringFlag{Name: "peer", Usage: "compare with QEMU: `PATH` of qemu-system-x86_64"},
		),
		Action: p.benchBoot,
	}
}

// benchGround is what a benchmark of whole instances stands on.
type benchGround struct {
	hvctl, store string // the program, and its images
	root         string // of instances of its own
}

// ground makes it; remove takes its instances' directory away.
func ground(c *cli.Context) (g benchGround, err error) {
	if n := c.Int("iterations"); n < 1 {
		return g, usagef(c, "--iterations %d: want at least 1", n)
	}
	if g.hvctl, err = os.Executable(); err != nil {
		return g, err
	}
	if g.store, err = storeDir(c); err != nil {
		return g, err
	}
	g.root, err = os.MkdirTemp("", "hvbench")
	return g, err
}

func (g benchGround) remove() { _ = os.RemoveAll(g.root) }

func (p *program) benchBoot(c *cli.Context) error {
	g, err := ground(c)
	if err != nil {
		return err
	}
	defer g.remove()
	r := boot.Result{
		Header: header(c),
		Kernel: c.String("kernel"), Image: c.String("image"), CPUs: c.Int("cpus"), MemoryMiB: c.Int("memory"),
	}
	ctx, stop := interruptible(c)
	defer stop()
	r.Samples, err = boot.Run(ctx, boot.Options{
		Hvctl: g.hvctl, Root: g.root, Store: g.store, Image: r.Image, Kernel: r.Kernel, CPUs: r.CPUs, MemoryMiB: r.MemoryMiB,
		Transports: strings.FieldsFunc(c.String("transports"), func(r rune) bool { return r == ',' }),
		Iterations: c.Int("iterations"), QEMU: c.String("peer"),
		Progress: func(done, all int, target string) {
			fmt.Fprintf(p.stderr, "%d of %d: %s\n", done+1, all, target)
		},
	})
	return p.keep(c, &r, len(r.Samples), err)
}

// printer is a result that can be shown as text.
type printer interface{ Print(w io.Writer) error }

// resultFlags are a benchmark's own flags, and those that all have.
func resultFlags(own ...cli.Flag) []cli.Flag {
	return append(own,
		&cli.StringFlag{Name: "mode", EnvVars: []string{"HVCTL_EXEC_MODE"}, Usage: "label the result with execution `MODE`", DefaultText: "detected"},
		&cli.StringFlag{Name: "out", Usage: "keep the samples in `FILE`"},
		jsonFlag(),
	)
}

// header is what a result begins with.
func header(c *cli.Context) record.Header {
	return record.Header{When: time.Now().UTC(), Mode: execMode(c.String("mode")), Env: environment()}
}

// keep writes the result where the flags say, unless it has no samples. err is
// how the measurement ended; that some samples could be had does not change it.
func (p *program) keep(c *cli.Context, r printer, samples int, err error) error {
	if err != nil && samples == 0 {
		return err
	}
	if c.Bool("json") || c.String("out") != "" {
		b, jerr := json.MarshalIndent(r, "", "  ")
		if jerr != nil {
			return jerr
		}
		b = append(b, '\n')
		if out := c.String("out"); out != "" {
			if werr := os.WriteFile(out, b, 0o644); werr != nil { //nolint:gosec // a result for everybody
				return werr
			}
		}
		if c.Bool("json") {
			_, werr := p.stdout.Write(b)
			return errors.Join(err, werr)
		}
	}
	return errors.Join(err, r.Print(p.stdout))
}

// execMode is the label every figure carries.
func execMode(given string) string {
	if given != "" {
		return given
	}
	mode, _ := doctor.DetectMode("/")
	switch mode {
	case doctor.Hardware:
		return "hw"
	case doctor.Nested:
		return "nested-hw"
	case doctor.Interpreted:
		return "pvm"
	case doctor.Emulated:
		return "tcg"
	default:
		return "unknown"
	}
}

// environment is what the figures depend on.
func environment() map[string]string {
	env := map[string]string{"hvctl": version, "go": runtime.Version(), "cpus": fmt.Sprint(runtime.NumCPU())}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		env["hostKernel"] = unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				env["cpu"] = strings.TrimSpace(v)
				break
			}
		}
	}
	return env
}
