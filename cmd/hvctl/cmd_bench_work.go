package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/bench/apps"
	"github.com/hvctl/hvctl/internal/bench/qemuvm"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/work"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// The chapters of package work.
const (
	chapterWork = "workload"
	chapterApps = "apps"
)

// workTargets are the names of targets that run any command.
var workTargets = []string{"host", "container", "vm", "runc", "crun", "hvctl-oci", "qemu"}

// benchWork measures a command of the user's, or the applications, in fresh
// instances of an image on every target.
func (p *program) benchWork(c *cli.Context, targets []string) error {
	chapter, ref, argv := chapterWork, c.Args().First(), c.Args().Tail()
	if c.String("suite") == chapterApps {
		chapter = chapterApps
		if ref == "" {
			ref = apps.Image
		}
		if len(argv) > 0 {
			return usagef(c, "--suite apps runs commands of its own: want an image at most")
		}
		if err := checkApps(c); err != nil {
			return err
		}
	}
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	if c.Int("blocks") < 1 {
		return usagef(c, "--blocks: want at least 1")
	}
	for _, t := range targets {
		if !slices.Contains(workTargets, t) {
			return usagef(c, "--targets %s: there are %s", t, strings.Join(workTargets, ", "))
		}
	}
	ctx, stop := interruptible(c)
	defer stop()
	out := c.String("out")
	if err := os.MkdirAll(out, 0o755); err != nil { //nolint:gosec // results for everybody
		return err
	}
	var cpu unix.CPUSet
	cpu.Set(c.Int("cpu"))
	if err := pinAll(&cpu); err != nil {
		return fmt.Errorf("--cpu %d: %w", c.Int("cpu"), err)
	}
	store, err := p.images(c)
	if err != nil {
		return err
	}
	cfg := &workload.Config{Res: workload.Resources{CPUs: 1, MemoryBytes: uint64(c.Int("memory")) << 20}}
	defaults, err := p.imageOf(ctx, store, ref, "missing", cfg)
	if errors.Is(err, images.ErrNotFound) && chapter == chapterApps {
		err = fmt.Errorf("%w: make it by `scripts/build-image apps`", err)
	}
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "hvbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	at := &workPlace{p: p, c: c, dir: dir, cfg: cfg, defaults: defaults}
	if at.tree, err = store.Tree(ctx, images.Rootfs{Path: cfg.Rootfs.ImagePath, Format: cfg.Rootfs.FSType, Digest: digest.Digest(cfg.Image.Digest)}); err != nil {
		return err
	}
	o := work.Options{
		Chapter: chapter, Pieces: at.pieces(chapter, argv),
		Progress: func(done, all int, target string, left time.Duration) {
			fmt.Fprintf(p.stderr, "%d of %d: %s, %v left\n", done+1, all, target, left.Round(time.Second))
		},
	}
	for _, name := range targets {
		t, err := at.target(name)
		if err != nil {
			return err
		}
		o.Targets = append(o.Targets, t)
	}
	r := &result.Result{
		Schema: result.Schema, Kind: "run", Started: time.Now().UTC(), Mode: execMode(c.String("mode")), Env: environment(),
		Command: strings.Join(os.Args, " "), Seed: c.Uint64("seed"),
		Plan:  result.Plan{Targets: targets, Copy: targets[0] + "'", Chapters: []string{chapter}, Blocks: c.Int("blocks"), Batches: 1, CPUSet: []int{c.Int("cpu")}, CPUs: cfg.Res.CPUs, MemoryMB: c.Int("memory")},
		Image: result.Image{Ref: cfg.Image.Ref, Digest: cfg.Image.Digest},
	}
	o.Save = func() error { return r.Save(out) }
	err = work.Run(ctx, o, r)
	if len(r.Samples) == 0 {
		return err
	}
	if err := errors.Join(err, r.Save(out), p.writeReport(r, out)); err != nil {
		return err
	}
	return equivalent(r)
}

// checkApps judges what --suite apps is to run.
func checkApps(c *cli.Context) error {
	if n := c.Int("load"); n < 1 || n > 1000 {
		return usagef(c, "--load %d: want 1 to 1000 per cent", n)
	}
	var names []string
	for _, a := range apps.All(100) {
		names = append(names, a.Name)
	}
	for _, name := range strings.Split(c.String("apps"), ",") {
		if c.IsSet("apps") && !slices.Contains(names, name) {
			return usagef(c, "--apps %s: there are %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// wantedApp tells whether it is to run: all are when none is named.
func wantedApp(c *cli.Context, name string) bool {
	return !c.IsSet("apps") || slices.Contains(strings.Split(c.String("apps"), ","), name)
}

// workPlace is where a benchmark's instances come from.
type workPlace struct {
	p         *program
	c         *cli.Context
	dir, tree string
	cfg       *workload.Config
	defaults  workload.ImageDefaults
}

// config makes the configuration of a new instance that runs argv.
func (w *workPlace) config(argv []string, entrypoint bool) (*workload.Config, error) {
	cfg := *w.cfg
	o := workload.SpecOptions{Image: w.defaults, Args: argv, Hostname: "bench"}
	if !entrypoint {
		o.Entrypoint = []string{""}
	}
	var err error
	if cfg.Spec, err = workload.NewSpec(o); err != nil {
		return nil, err
	}
	cfg.ID, cfg.StopTimeoutSeconds = instance.NewID(), defaultStopTimeout
	cfg.Net, cfg.Log = workload.Network{Mode: workload.NetNone}, workload.Log{Off: true}
	cfg.VM.KernelRef = w.c.String("kernel")
	return &cfg, nil
}

func (w *workPlace) pieces(chapter string, argv []string) (out []work.Piece) {
	if chapter == chapterWork {
		return []work.Piece{{Same: true, Config: func() (*workload.Config, error) { return w.config(argv, true) }}}
	}
	for _, a := range apps.All(w.c.Int("load")) {
		if !wantedApp(w.c, a.Name) {
			continue
		}
		out = append(out, work.Piece{Name: a.Name, Read: a.Read, Config: func() (*workload.Config, error) { return w.config(a.Argv, false) }})
	}
	return out
}

// target makes a target, or says why it cannot be had here.
func (w *workPlace) target(name string) (work.Target, error) {
	switch name {
	case "host":
		return &work.Host{Tree: w.tree, Dir: filepath.Join(w.dir, "host")}, nil
	case "runc", "crun":
		t := &work.OCI{Runtime: name, Tree: w.tree, Dir: filepath.Join(w.dir, name)}
		return t, t.Look()
	case "hvctl-oci":
		prog, err := findHelper(name)
		return &work.OCI{Runtime: prog, Tree: w.tree, Dir: filepath.Join(w.dir, name)}, err
	case "qemu":
		b, err := w.p.backend(w.c, "vm")
		if err != nil {
			return nil, err
		}
		return &work.QEMU{Backend: b, Dir: w.dir}, qemuvm.Look(qemuvm.Program)
	}
	b, err := w.p.backend(w.c, name)
	if err != nil {
		return nil, err
	}
	instances, err := w.p.instances(w.c)
	return &work.Backend{Backend: b, Instances: instances}, err
}
