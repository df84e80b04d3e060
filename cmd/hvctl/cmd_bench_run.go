package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/bench/equiv"
	"github.com/hvctl/hvctl/internal/bench/report"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/run"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// benchChapters is what a run has by default.
var benchChapters = strings.Join(run.Chapters(), ",")

func runFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "suite", Value: benchChapters, Usage: "measure these chapters: `LIST`"},
		&cli.BoolFlag{Name: "quick", Usage: "measure less of everything, and end within 10 minutes, whole or partial (not in mode tcg-icount, whose clock is none)"},
		&cli.BoolFlag{Name: "full", Usage: "measure more of everything"},
		&cli.IntFlag{Name: "blocks", Value: 6, Usage: "measure every target `NUMBER` times, after a warm-up"},
		&cli.IntFlag{Name: "batches", Value: 5, Usage: "repeat each probe `NUMBER` times in an instance"},
		&cli.DurationFlag{Name: "batch-time", Value: 20 * time.Millisecond, Usage: "what a batch takes on the first target"},
		&cli.IntFlag{Name: "starts", Value: 20, Usage: "lifecycle: start every target `NUMBER` times, after a warm-up"},
		&cli.IntFlag{Name: "density", Value: 10, Usage: "put up to `NUMBER` instances beside each other"},
		&cli.IntFlag{Name: "moves", Value: 5, Usage: "migrate, save and restart each target `NUMBER` times"},
		&cli.DurationFlag{Name: "control-time", Value: 2 * time.Second, Usage: "let each test of resource control take so long"},
		&cli.StringFlag{Name: "controls", Usage: "of resource control make only the tests that have a word of `LIST` in their name", DefaultText: "all"},
		&cli.IntFlag{Name: "control-blocks", Value: 1, Usage: "make each test of resource control `NUMBER` times"},
		&cli.StringFlag{Name: "apps", Usage: "with --suite apps: `LIST` of redis, nginx, sqlite, python, compile", DefaultText: "all"},
		&cli.IntFlag{Name: "load", Value: 100, Usage: "with --suite apps: `PER CENT` of each application's load"},
		&cli.StringFlag{Name: "kernel", EnvVars: []string{"HVCTL_KERNEL"}, Usage: "VM: boot the kernel `NAME|FILE`", DefaultText: "the default of the kernel store"},
		&cli.IntFlag{Name: "memory", Value: 512, Usage: "`MIB` of memory"},
		&cli.IntFlag{Name: "cpu", Usage: "run everything on processor `NUMBER`"},
		&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "order and intervals follow from this `NUMBER`"},
		&cli.StringFlag{Name: "plant", Hidden: true, Usage: "slow `TARGET` down by 5 %, for tests"},
		&cli.StringFlag{Name: "plant-output", Hidden: true, Usage: "let `TARGET` see something wrong, for tests"},
		&cli.StringFlag{Name: "mode", EnvVars: []string{"HVCTL_EXEC_MODE"}, Usage: "label the result with execution `MODE`", DefaultText: "detected"},
		&cli.StringFlag{Name: "out", Usage: "keep samples and report in `DIR`", Required: true},
	}
}

func (p *program) cmdBenchRun() *cli.Command {
	return &cli.Command{
		Name:        "run",
		Usage:       "measure probes, or a command of yours, on targets side by side, in fresh instances",
		ArgsUsage:   "[IMAGE [-- COMMAND...]]",
		Description: "The first target is the base. With IMAGE, its command or COMMAND runs once in each instance:\noutput and exit are compared, time, processor time and memory of the whole instance measured.\nThe targets runc, crun, hvctl-oci and qemu are for that, and for --suite apps, which needs the\nimage that scripts/build-image apps makes, or IMAGE. Needs root. The method is in docs/bench-method.md.",
		Flags:       append([]cli.Flag{&cli.StringFlag{Name: "targets", Value: "host,container,vm", Usage: "measure these: `LIST` of host, container, vm; runc, crun, hvctl-oci, qemu"}}, runFlags()...),
		Action: func(c *cli.Context) error {
			targets := strings.Split(c.String("targets"), ",")
			if c.NArg() > 0 || c.String("suite") == chapterApps {
				return p.benchWork(c, targets)
			}
			return p.benchRun(c, "run", targets)
		},
	}
}

func (p *program) cmdBenchNull() *cli.Command {
	return &cli.Command{
		Name:   "null",
		Usage:  "measure a target against itself: how noisy is this machine?",
		Flags:  append([]cli.Flag{&cli.StringFlag{Name: "target", Value: "host", Usage: "measure `NAME` host, container or vm"}}, runFlags()...),
		Action: func(c *cli.Context) error { return p.benchRun(c, "null", []string{c.String("target")}) },
	}
}

func (p *program) benchRun(c *cli.Context, kind string, targets []string) error {
	chapters := strings.Split(c.String("suite"), ",")
	for _, ch := range chapters {
		if !slices.Contains(run.Chapters(), ch) {
			return usagef(c, "--suite %s: there are %s", ch, strings.Join(run.Chapters(), ", "))
		}
	}
	if c.Int("blocks") < 1 || c.Int("batches") < 1 {
		return usagef(c, "--blocks and --batches: want at least 1")
	}
	ctx, stop := interruptible(c)
	defer stop()
	if err := benchSize(c); err != nil {
		return err
	}
	mode := execMode(c.String("mode"))
	if c.Bool("quick") && mode != countsInstructions {
		var cancel func()
		ctx, cancel = context.WithTimeoutCause(ctx, quickTime, errQuick)
		defer cancel()
	}
	out := c.String("out")
	if err := os.MkdirAll(out, 0o755); err != nil { //nolint:gosec // results for everybody
		return err
	}
	var cpu, every unix.CPUSet
	cpu.Set(c.Int("cpu"))
	if err := unix.SchedGetaffinity(0, &every); err != nil {
		return os.NewSyscallError("sched_getaffinity", err)
	}
	if err := pinAll(&cpu); err != nil {
		return fmt.Errorf("--cpu %d: %w", c.Int("cpu"), err)
	}
	r := &result.Result{
		Schema: result.Schema, Kind: kind, Started: time.Now().UTC(), Mode: mode, Env: environment(),
		Command: strings.Join(os.Args, " "), Seed: c.Uint64("seed"),
		Plan: result.Plan{Targets: targets, Copy: targets[0] + "'", Chapters: chapters, Blocks: c.Int("blocks"), Batches: c.Int("batches"), CPUSet: []int{c.Int("cpu")}, CPUs: 1, MemoryMB: c.Int("memory")},
	}
	dir, err := os.MkdirTemp("", "hvbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	worlds, tree, err := p.worlds(ctx, c, dir, targets, r)
	if err != nil {
		return err
	}
	var checkpoint *run.Checkpointer
	if oci, err := findHelper("hvctl-oci"); err == nil {
		checkpoint = &run.Checkpointer{Program: oci, Tree: tree}
	}
	err = run.Run(ctx, run.Options{
		Checkpoint: checkpoint, Brief: c.Bool("quick"),
		Worlds: worlds, BatchTime: c.Duration("batch-time"), Plant: c.String("plant"), PlantOutput: c.String("plant-output"),
		Starts: c.Int("starts"), ControlTime: c.Duration("control-time"), ControlBlocks: c.Int("control-blocks"),
		Controls: strings.FieldsFunc(c.String("controls"), func(r rune) bool { return r == ',' }),
		Disk:     func() (*run.Disk, error) { return run.LoopDisk(dir, limitsDisk) },
		Network:  true,
		Crowd:    c.Int("density"), Moves: c.Int("moves"),
		Pin: func(on bool) error {
			if on {
				return pinAll(&cpu)
			}
			return pinAll(&every)
		}, Save: func() error { return r.Save(out) },
		Announce: func(d time.Duration) {
			fmt.Fprintf(p.stderr, "it will take about %v, until %s\n", d.Round(time.Second), time.Now().Add(d).Format("15:04"))
		},
		Progress: func(done, all int, target string, left time.Duration) {
			fmt.Fprintf(p.stderr, "%d of %d: %s, %v left\n", done+1, all, target, left.Round(time.Second))
		},
	}, r)
	if len(r.Samples)+len(r.Facts)+len(r.Controls)+len(r.Density)+len(r.Moves) == 0 {
		return err
	}
	if err := errors.Join(err, r.Save(out), p.writeReport(r, out)); err != nil {
		return err
	}
	return equivalent(r)
}

// equivalent is an error when the targets are not.
func equivalent(r *result.Result) error {
	if n := equiv.Count(equiv.Judge(r.Facts, r.Plan.Targets)); n[equiv.Unexpected]+n[equiv.Failed] > 0 {
		return fmt.Errorf("the targets are not equivalent: %d facts differ that must not, %d tests failed; see the report", n[equiv.Unexpected], n[equiv.Failed])
	}
	return nil
}

// quickTime is when a quick run is stopped: what is left of ten minutes is for
// cleaning up and the report.
const quickTime = 9*time.Minute + 30*time.Second

// countsInstructions is the mode whose clock tells no time: it jumps over every
// wait for something outside of the machine.
const countsInstructions = "tcg-icount"

var errQuick = errors.New("the time of a quick run is over")

// sizes are the defaults of --quick and --full, where no flag says otherwise.
var sizes = map[string]map[string]string{
	"quick": {
		"blocks": "4", "batches": "3", "batch-time": "10ms", "starts": "4", "density": "2", "moves": "1",
		"control-time": "1s", "controls": "quota 25,weight,limit,writes 4,receives,alone,beside memory",
	},
	"full": {"blocks": "20", "batches": "10", "batch-time": "50ms", "starts": "100", "density": "50", "control-blocks": "5", "moves": "10"},
}

// benchSize sets what --quick or --full mean.
func benchSize(c *cli.Context) error {
	if c.Bool("quick") && c.Bool("full") {
		return usagef(c, "--quick and --full: choose one")
	}
	for size, flags := range sizes {
		for name, value := range flags {
			if !c.Bool(size) || c.IsSet(name) {
				continue
			}
			if err := c.Set(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// limitsDisk is the size of the disk that limits are tried on.
const limitsDisk = 32 << 20

// pinAll binds every thread of this process; those it starts inherit it.
func pinAll(set *unix.CPUSet) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		var tid int
		if _, err := fmt.Sscan(t.Name(), &tid); err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, set); err != nil && err != unix.ESRCH { // it has ended meanwhile
			return os.NewSyscallError("sched_setaffinity", err)
		}
	}
	return nil
}

// worlds prepares the image of the probes, its files in a directory, and the
// targets.
func (p *program) worlds(ctx context.Context, c *cli.Context, dir string, targets []string, r *result.Result) (_ []run.World, tree string, _ error) {
	prog, err := findHelper("hvbench")
	if err != nil {
		return nil, "", err
	}
	b, err := os.ReadFile(prog)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(b)
	rootfs := filepath.Join(dir, "image")
	for _, d := range []string{"etc", "tmp", "proc", "dev", "sys", "usr", "bin"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil { //nolint:gosec // an image's
			return nil, "", err
		}
	}
	if err := os.WriteFile(filepath.Join(rootfs, "hvbench"), b, 0o755); err != nil { //nolint:gosec // a program
		return nil, "", err
	}
	if err := os.WriteFile(filepath.Join(rootfs, "etc", "passwd"), []byte("root:x:0:0::/:/hvbench\n"), 0o644); err != nil { //nolint:gosec // an image's
		return nil, "", err
	}
	store, err := p.images(c)
	if err != nil {
		return nil, "", err
	}
	im, err := store.Import(ctx, rootfs, "hvbench:latest", images.ImportOptions{Type: images.RootTar})
	if err != nil {
		return nil, "", err
	}
	fs, err := store.Rootfs(ctx, im, images.RootfsOptions{})
	if err != nil {
		return nil, "", err
	}
	r.Image = result.Image{Ref: im.Ref, Digest: im.Digest.String(), Probes: hex.EncodeToString(sum[:])}
	config := func(j run.Job) (*workload.Config, error) {
		spec, err := workload.NewSpec(workload.SpecOptions{Args: j.Argv, Env: []string{"PATH=" + workload.DefaultPath, "HOME=/", "HOSTNAME=bench"}, Hostname: "bench", User: j.User, Cwd: j.Cwd})
		res := j.Res
		if res.CPUs == 0 {
			res.CPUs = 1
		}
		if res.MemoryBytes == 0 {
			res.MemoryBytes = uint64(c.Int("memory")) << 20
		}
		return &workload.Config{
			ID: instance.NewID(), Spec: spec, StopTimeoutSeconds: defaultStopTimeout,
			Image: workload.Image{Ref: im.Ref, Digest: im.Digest.String()}, Rootfs: workload.Rootfs{ImagePath: fs.Path, FSType: fs.Format},
			Net: workload.Network{Mode: workload.NetNone}, Log: workload.Log{Off: true}, VM: workload.VM{KernelRef: c.String("kernel")},
			Res: res,
		}, err
	}
	instances, err := p.instances(c)
	if err != nil {
		return nil, "", err
	}
	if tree, err = store.Tree(ctx, fs); err != nil {
		return nil, "", err
	}
	var out []run.World
	for _, t := range targets {
		if t == "host" {
			out = append(out, &run.Host{Tree: tree, Dir: filepath.Join(dir, "host"), Config: config})
			continue
		}
		be, err := p.backend(c, t)
		if err != nil {
			return nil, "", err
		}
		out = append(out, &run.Backend{Backend: be, Instances: instances, Config: config})
	}
	return out, tree, nil
}

// writeReport leaves report.html, report.md and pictures, and shows a summary.
func (p *program) writeReport(r *result.Result, dir string) error {
	pictures, err := report.Pictures(r)
	if err != nil {
		return err
	}
	for name, svg := range pictures {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(svg), 0o644); err != nil { //nolint:gosec // results for everybody
			return err
		}
	}
	for name, write := range map[string]func(io.Writer, *result.Result) error{"report.md": report.Markdown, "report.html": report.HTML} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := errors.Join(write(f, r), f.Close()); err != nil {
			return err
		}
	}
	if err := report.Text(p.stdout, r); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stderr, "the report: %s\n", filepath.Join(dir, "report.html"))
	return err
}

func (p *program) cmdBenchReport() *cli.Command {
	return &cli.Command{
		Name:      "report",
		Usage:     "write report.html, report.md and pictures of a run's samples",
		ArgsUsage: "DIR",
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef(c, "want the directory of a run")
			}
			r, err := result.Load(c.Args().First())
			if err != nil {
				return err
			}
			return p.writeReport(r, c.Args().First())
		},
	}
}

func (p *program) cmdBenchCompare() *cli.Command {
	return &cli.Command{
		Name:        "compare",
		Usage:       "find what became slower between two runs",
		ArgsUsage:   "OLD NEW",
		Description: "The exit status is 1 when something is slower. Runs of different execution modes are\nnot compared.",
		Flags:       []cli.Flag{&cli.Float64Flag{Name: "threshold", Value: 2, Usage: "`PER CENT` that are no difference"}},
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return usagef(c, "want two results")
			}
			old, err := result.Load(c.Args().Get(0))
			if err != nil {
				return err
			}
			now, err := result.Load(c.Args().Get(1))
			if err != nil {
				return err
			}
			changes, err := report.Compare(old, now, c.Float64("threshold")/100)
			if err != nil {
				return err
			}
			slower := 0
			for _, ch := range changes {
				e := ch.Estimate
				fmt.Fprintf(p.stdout, "%-13s %s/%s %s: %.3f (%.3f to %.3f), δ %.1f %%\n", ch.Verdict, ch.Key.Chapter, ch.Key.Probe, ch.Target, e.Ratio, e.Low, e.High, 100*ch.Delta)
				if ch.Verdict == "slower" {
					slower++
				}
			}
			if slower > 0 {
				return exitStatus(1)
			}
			return nil
		},
	}
}
