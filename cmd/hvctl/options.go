package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/vcpu/cpuid"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

const defaultStopTimeout = 10 // seconds, docker's

// workloadFlags are the flags of run and create.
func workloadFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "keep standard input open"},
		&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the process a terminal"},
		&cli.BoolFlag{Name: "rm", Usage: "remove the instance when it ends"},
		&cli.StringFlag{Name: "name", Usage: "call the instance `NAME`"},
		&cli.BoolFlag{Name: "replace", Usage: "remove an ended instance of the same name first"},
		&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set `NAME=VALUE`; NAME alone takes ours"},
		&cli.StringSliceFlag{Name: "env-file", Usage: "read variables from `FILE`, one a line"},
		&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "start in `DIR`"},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "run as `NAME|UID[:GROUP|GID]`"},
		&cli.StringFlag{Name: "hostname", Usage: "host `NAME` inside", DefaultText: "the short ID"},
		&cli.StringFlag{Name: "entrypoint", Usage: "run `PROGRAM` in place of the image's; empty clears it"},
		&cli.Float64Flag{Name: "cpus", Usage: "`NUMBER` of processors; a VM has it rounded up"},
		&cli.StringFlag{Name: "memory", Aliases: []string{"m"}, Usage: "memory: `SIZE` such as 512M", DefaultText: "512M for a VM, no limit for a container"},
		&cli.Uint64Flag{Name: "cpu-weight", Usage: "share of processor time against others, `WEIGHT` 1 to 10000", DefaultText: "100"},
		&cli.StringFlag{Name: "cpu-deadline", Usage: "promise processor time: `RUNTIME,DEADLINE,PERIOD` such as 5ms,20ms,20ms"},
		&cli.Int64Flag{Name: "pids-limit", Usage: "at most `NUMBER` of processes; -1: no limit"},
		&cli.StringFlag{Name: "cgroup-parent", Usage: "make the instance's cgroup below `PATH`", DefaultText: "/hvctl"},
		&cli.StringSliceFlag{Name: "publish", Aliases: []string{"p"}, Usage: "publish `[IP:]HOSTPORT:PORT[/PROTO]` on the host"},
		&cli.StringFlag{Name: "network", Aliases: []string{"net"}, Usage: networkUsage, DefaultText: "bridge for root, else user"},
		&cli.StringFlag{Name: "cni-conf", EnvVars: []string{"HVCTL_CNI_CONF"}, Value: "/etc/cni/net.d", Usage: "CNI: the networks are configured in `DIR`"},
		&cli.StringFlag{Name: "cni-plugins", EnvVars: []string{"CNI_PATH"}, Value: "/opt/cni/bin:/usr/lib/cni", Usage: "CNI: plugins are in `DIR[:DIR...]`"},
		&cli.StringFlag{Name: "mac-address", Usage: "Ethernet address `MAC`", DefaultText: "made from the ID"},
		&cli.StringFlag{Name: "ip", Usage: "`ADDRESS` on the bridge", DefaultText: "the next free one"},
		&cli.StringSliceFlag{Name: "dns", Usage: "name server `ADDRESS`", DefaultText: "the host's"},
		&cli.StringSliceFlag{Name: "add-host", Usage: "put `NAME:IP` into /etc/hosts"},
		&cli.StringSliceFlag{Name: "label", Aliases: []string{"l"}, Usage: "set the label `NAME=VALUE`"},
		&cli.BoolFlag{Name: "read-only", Usage: "no writable layer on the root file system"},
		&cli.StringSliceFlag{Name: "cap-add", Usage: "add the capability `CAP`, or ALL"},
		&cli.StringSliceFlag{Name: "cap-drop", Usage: "drop the capability `CAP`, or ALL"},
		&cli.StringSliceFlag{Name: "security-opt", Usage: "`OPTION` no-new-privileges, or seccomp=unconfined (a VM has no filter anyway)"},
		&cli.StringSliceFlag{Name: "ulimit", Usage: "resource limit `NAME=SOFT[:HARD]`"},
		&cli.StringSliceFlag{Name: "sysctl", Usage: "kernel parameter `NAME=VALUE` inside"},
		&cli.StringSliceFlag{Name: "tmpfs", Usage: "mount a tmpfs on `PATH[:OPTION,...]`"},
		&cli.StringSliceFlag{Name: "volume", Aliases: []string{"v"}, Usage: "show the directory or file HOST at PATH inside, `HOST:PATH[:ro]`"},
		&cli.StringFlag{Name: "stop-signal", Usage: "`SIGNAL` that stop sends first", DefaultText: "the image's, or TERM"},
		&cli.IntFlag{Name: "stop-timeout", Value: defaultStopTimeout, Usage: "`SECONDS` that stop waits before it kills"},
		&cli.StringFlag{Name: "pull", Value: "missing", Usage: "pull the image `WHEN` missing, always or never"},
		&cli.StringFlag{Name: "backend", EnvVars: []string{"HVCTL_BACKEND"}, Usage: "run as `KIND` vm or container", DefaultText: "vm"},
		&cli.StringFlag{Name: "kernel", EnvVars: []string{"HVCTL_KERNEL"}, Usage: "VM: boot the kernel `NAME|FILE`", DefaultText: "the default of the kernel store"},
		&cli.StringFlag{Name: "cmdline", Usage: "VM: append `TEXT` to the kernel's command line"},
		&cli.StringFlag{Name: "transport", Usage: "VM: attach devices by `BUS` pci or mmio"},
		&cli.StringSliceFlag{Name: "disk", Usage: "VM: a further disk, `path=FILE[,OPTION]...`: " + diskOptions},
		&cli.StringFlag{Name: "gdb", Usage: "VM: let gdb debug the guest at `ADDRESS`: unix:PATH or a port of this machine"},
		&cli.BoolFlag{Name: "gdb-wait", Usage: "VM: hold the guest at its first instruction until gdb lets it go"},
		&cli.BoolFlag{Name: "hugepages", Usage: "VM: back memory with huge pages"},
		maxCPUsFlag("VM: "),
		maxMemoryFlag("VM: "),
		&cli.StringFlag{Name: "rootfs", Usage: "VM: give the guest its image `AS` blk, a disk, or pmem, memory that VMs of the image share", DefaultText: workload.RootfsBlk},
		balloonFlag("VM: "),
		&cli.StringFlag{Name: "watchdog", Usage: "VM: give the guest a watchdog; when it fires, `ACTION` exit, dump (into guest.core) or pause", DefaultText: "none"},
		&cli.StringFlag{Name: "on-panic", Usage: "VM: when the guest's kernel crashes, `ACTION` exit, dump (into guest.core) or pause", DefaultText: "exit"},
		cpuFlag(),
		&cli.BoolFlag{Name: "timeline", Hidden: true, Usage: "VM: leave timeline.json in the state directory (hvctl bench boot)"},
		&cli.BoolFlag{Name: "no-log", Usage: "keep no log of the output"},
		&cli.StringFlag{Name: "log-max-size", Usage: "rotate the log at `SIZE`", DefaultText: "10M"},
		&cli.IntFlag{Name: "log-max-files", Usage: "keep `NUMBER` of log files", DefaultText: "3"},
	}, throttleFlags("")...)
}

// config makes the Config that the flags, the image and its command ask for.
// Nothing is changed on the host but the image store, when an image is pulled.
func (p *program) config(ctx context.Context, c *cli.Context) (*workload.Config, workload.Backend, error) {
	if c.NArg() == 0 {
		return nil, nil, usagef(c, "no image given")
	}
	cfg, o, err := p.fromFlags(c)
	if err != nil {
		return nil, nil, err
	}
	b, err := p.backend(c, c.String("backend"))
	if err != nil {
		return nil, nil, err
	}
	if err := checkBackend(c, b.Name(), cfg); err != nil {
		return nil, nil, err
	}
	im, err := p.image(ctx, c, cfg)
	if err != nil {
		return nil, nil, err
	}
	o.Image = im
	o.Args = c.Args().Tail()
	if cfg.Spec, err = workload.NewSpec(o); err != nil {
		return nil, nil, err
	}
	if cfg.StopSignal == "" {
		cfg.StopSignal = im.StopSignal
	}
	for k, v := range im.Labels {
		if _, set := cfg.Labels[k]; !set {
			if cfg.Labels == nil {
				cfg.Labels = map[string]string{}
			}
			cfg.Labels[k] = v
		}
	}
	cfg.Backend = b.Name()
	if err := b.Prepare(ctx, cfg); err != nil {
		return nil, nil, err
	}
	return cfg, b, nil
}

// fromFlags reads every flag and reports all that is wrong at once.
func (p *program) fromFlags(c *cli.Context) (*workload.Config, workload.SpecOptions, error) {
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	cfg := &workload.Config{
		ID: instance.NewID(), Name: c.String("name"), OpenStdin: c.Bool("interactive"), AutoRemove: c.Bool("rm"),
		StopSignal: c.String("stop-signal"), StopTimeoutSeconds: c.Int("stop-timeout"),
		Rootfs: workload.Rootfs{ReadOnly: c.Bool("read-only")},
		VM:     workload.VM{KernelRef: c.String("kernel"), Cmdline: c.String("cmdline"), Transport: c.String("transport"), HugePages: c.Bool("hugepages"), Timeline: c.Bool("timeline")},
		Log:    workload.Log{Off: c.Bool("no-log"), Files: c.Int("log-max-files")},
	}
	if cfg.Name != "" {
		note(instance.CheckName(cfg.Name))
	}
	if cfg.StopSignal != "" {
		_, err := workload.ParseSignal(cfg.StopSignal)
		note(err)
	}
	var err error
	cfg.VM.CPU, err = cpuModel(c)
	note(err)
	note(resources(c, cfg))
	note(debugger(c, cfg))
	note(balloonOf(c, cfg))
	note(rootfsOf(c, cfg))
	note(maxCPUs(c, cfg))
	note(maxMemory(c, cfg))
	note(atEnds(c, cfg))
	note(network(c, cfg))
	cfg.Labels, err = parsePairs("label", c.StringSlice("label"))
	note(err)
	for _, s := range c.StringSlice("disk") {
		d, err := parseDisk(s)
		note(err)
		cfg.VM.Disks = append(cfg.VM.Disks, d)
	}
	if t := cfg.VM.Transport; t != "" && t != "pci" && t != "mmio" {
		note(fmt.Errorf("transport %q: use pci or mmio", t))
	}
	o, err := p.specOptions(c, cfg)
	note(err)
	if len(errs) > 0 {
		return nil, o, &usageError{err: errors.Join(errs...), command: c.Command.HelpName}
	}
	return cfg, o, nil
}

func resources(c *cli.Context, cfg *workload.Config) error {
	var errs []error
	cfg.Res.CPUs = c.Float64("cpus")
	if n := cfg.Res.CPUs; n < 0 || n > 4096 || math.IsNaN(n) || c.IsSet("cpus") && n == 0 {
		errs = append(errs, fmt.Errorf("--cpus %v: want a number above 0", n))
	}
	if n := c.Int64("pids-limit"); n < -1 {
		errs = append(errs, fmt.Errorf("--pids-limit %d: want a number above 0, or -1 for no limit", n))
	} else {
		cfg.Res.PIDs = max(n, 0)
	}
	if n := c.Uint64("cpu-weight"); c.IsSet("cpu-weight") && (n < 1 || n > 10000) {
		errs = append(errs, fmt.Errorf("--cpu-weight %d: want 1 to 10000", n))
	} else {
		cfg.Res.CPUWeight = n
	}
	var err error
	if cfg.Res.BlockIO, err = throttles(c, false); err != nil {
		errs = append(errs, err)
	}
	if s := c.String("cpu-deadline"); s != "" {
		d, err := workload.ParseDeadline(s)
		if err != nil {
			err = fmt.Errorf("--cpu-deadline: %w", err)
		}
		errs = append(errs, err)
		cfg.Res.Deadline = d
	}
	if s := c.String("cgroup-parent"); s != "" {
		p, err := cgroup.CleanPath(s)
		if err == nil && p[0] != '/' {
			err = fmt.Errorf("%q: want an absolute path, such as /machines", s)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("--cgroup-parent: %w", err))
		}
		cfg.Res.CgroupParent = p
	}
	if s := c.String("memory"); s != "" {
		n, err := parseSize(s)
		if err == nil && n == 0 {
			err = fmt.Errorf("--memory %s: want more than nothing", s)
		}
		errs = append(errs, err)
		cfg.Res.MemoryBytes = n
	}
	if s := c.String("log-max-size"); s != "" {
		n, err := parseSize(s)
		if err == nil && n < 4096 {
			err = fmt.Errorf("--log-max-size %s: want at least 4K", s)
		}
		errs = append(errs, err)
		cfg.Log.MaxBytes = int64(n)
	}
	if n := c.Int("log-max-files"); n < 0 || n > 1000 {
		errs = append(errs, fmt.Errorf("--log-max-files %d: want 1 to 1000", n))
	}
	return errors.Join(errs...)
}

func (p *program) specOptions(c *cli.Context, cfg *workload.Config) (workload.SpecOptions, error) {
	o := workload.SpecOptions{
		Cwd: c.String("workdir"), User: c.String("user"), Hostname: c.String("hostname"), Terminal: c.Bool("tty"),
		ReadOnly: c.Bool("read-only"), CapAdd: c.StringSlice("cap-add"), CapDrop: c.StringSlice("cap-drop"),
	}
	if o.Hostname == "" {
		o.Hostname = cfg.ID[:12]
	}
	if c.IsSet("entrypoint") {
		o.Entrypoint = []string{c.String("entrypoint")}
	}
	var errs []error
	var err error
	o.Env, err = environ(c.StringSlice("env-file"), c.StringSlice("env"))
	errs = append(errs, err)
	o.Sysctl, err = parsePairs("sysctl", c.StringSlice("sysctl"))
	errs = append(errs, err)
	for _, s := range c.StringSlice("ulimit") {
		r, err := parseUlimit(s)
		errs = append(errs, err)
		o.Rlimits = append(o.Rlimits, r)
	}
	for _, s := range c.StringSlice("tmpfs") {
		m, err := parseTmpfs(s)
		errs = append(errs, err)
		o.Mounts = append(o.Mounts, m)
	}
	for _, s := range c.StringSlice("volume") {
		m, err := parseVolume(s)
		errs = append(errs, err)
		o.Mounts = append(o.Mounts, m)
	}
	for _, s := range c.StringSlice("security-opt") {
		switch s {
		case "no-new-privileges", "no-new-privileges:true":
			o.NoNewPrivs = true
		case "seccomp=unconfined":
			o.Unfiltered = true
		default:
			errs = append(errs, fmt.Errorf("security option %q: use no-new-privileges or seccomp=unconfined", s))
		}
	}
	if o.Terminal {
		o.Columns, o.Rows = p.terminalSize()
	}
	return o, errors.Join(errs...)
}

func parseVolume(s string) (specs.Mount, error) {
	host, rest, ok := strings.Cut(s, ":")
	path, opt, _ := strings.Cut(rest, ":")
	if !ok || host == "" || !filepath.IsAbs(path) || opt != "" && opt != "ro" && opt != "rw" {
		return specs.Mount{}, fmt.Errorf("volume %q: want HOST:PATH[:ro], PATH absolute", s)
	}
	abs, err := filepath.Abs(host)
	if err != nil {
		return specs.Mount{}, err
	}
	m := specs.Mount{Destination: filepath.Clean(path), Type: "bind", Source: abs, Options: []string{"rbind"}}
	if opt == "ro" {
		m.Options = append(m.Options, "ro")
	}
	return m, nil
}

// checkBackend refuses, by name, flags that the backend cannot honour at all.
func checkBackend(c *cli.Context, name string, cfg *workload.Config) error {
	refuse := func(flags ...string) error {
		for _, f := range flags {
			// What the environment sets is for those that can use it.
			if c.IsSet(f) && (f != "kernel" || c.String(f) != os.Getenv("HVCTL_KERNEL")) {
				return fmt.Errorf("%s: --%s: %w", name, f, workload.ErrUnsupported)
			}
		}
		return nil
	}
	switch name {
	case "vm":
		if cfg.Net.Mode == workload.NetHost {
			return fmt.Errorf("vm: --network host: %w; a VM has a network of its own, use bridge", workload.ErrUnsupported)
		}
		return nil
	case "container":
		if cfg.Net.Queues != 0 || cfg.Net.Vhost || cfg.Net.Tap != nil {
			return fmt.Errorf("container: --network %s: %w; a container's interface is no tap", c.String("network"), workload.ErrUnsupported)
		}
		return refuse("kernel", "cmdline", "transport", "disk", "max-cpus", "max-memory", "rootfs", "hugepages", "cpu", "balloon", "watchdog", "on-panic", "timeline", "gdb", "gdb-wait")
	}
	return nil
}

// image finds the image that is the first argument, pulls it if so asked, and
// records it in cfg.
func (p *program) image(ctx context.Context, c *cli.Context, cfg *workload.Config) (workload.ImageDefaults, error) {
	store, err := p.images(c)
	if err != nil {
		return workload.ImageDefaults{}, err
	}
	return p.imageOf(ctx, store, c.Args().First(), c.String("pull"), cfg)
}

// imageOf is image with the reference and when to pull it.
func (p *program) imageOf(ctx context.Context, store *images.Store, ref, pull string, cfg *workload.Config) (workload.ImageDefaults, error) {
	im, err := p.resolve(ctx, store, ref, pull)
	if err != nil {
		return workload.ImageDefaults{}, err
	}
	if err := im.CheckPlatform(); err != nil {
		return workload.ImageDefaults{}, err
	}
	bar := p.newProgress()
	defer bar.close()
	fs, err := store.Rootfs(ctx, im, images.RootfsOptions{Progress: bar.images()})
	if err != nil {
		return workload.ImageDefaults{}, fmt.Errorf("%s: %w", ref, err)
	}
	cfg.Image = workload.Image{Ref: im.Ref, Digest: im.Digest.String()}
	if cfg.Image.Ref == "" {
		cfg.Image.Ref = ref
	}
	cfg.Rootfs.ImagePath, cfg.Rootfs.FSType = fs.Path, fs.Format
	i := im.Config.Config
	return workload.ImageDefaults{
		Entrypoint: i.Entrypoint, Cmd: i.Cmd, Env: i.Env, User: i.User, WorkingDir: i.WorkingDir, StopSignal: i.StopSignal, Labels: i.Labels,
	}, nil
}

// resolve finds ref in the store, pulling it as policy says.
func (p *program) resolve(ctx context.Context, store *images.Store, ref, policy string) (*images.Image, error) {
	switch policy {
	case "missing", "never", "always":
	default:
		return nil, fmt.Errorf("--pull %q: use missing, always or never", policy)
	}
	if policy != "always" {
		im, err := store.Resolve(ctx, ref)
		if err == nil {
			return im, nil
		}
		if !errors.Is(err, images.ErrNotFound) {
			return nil, err
		}
		if policy == "never" {
			return nil, fmt.Errorf("%w; use `hvctl pull %s` or `hvctl import FILE %s`", err, ref, ref)
		}
		if p.terminal() {
			fmt.Fprintf(p.stderr, "%s is not here yet: pulling it\n", ref)
		}
	}
	return p.pull(ctx, store, ref, images.PullOptions{})
}

// terminalSize is the size of the terminal we are on; 0, 0 without one.
func (p *program) terminalSize() (columns, rows uint) {
	w, h, err := term.GetSize(int(p.stdin.Fd()))
	if err != nil || w <= 0 || h <= 0 {
		return 0, 0
	}
	return uint(w), uint(h)
}

// terminal tells whether standard error is one, so that progress makes sense.
func (p *program) terminal() bool {
	f, ok := p.stderr.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

// screen tells whether standard output is a terminal.
func (p *program) screen() bool {
	f, ok := p.stdout.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

func cpuFlag() cli.Flag {
	return &cli.StringFlag{Name: "cpu", Value: string(cpuid.Host), Usage: "VM: show the guest `MODEL` baseline-v2, baseline-v3 (to move between hosts of one vendor that differ) or host"}
}

// cpuModel returns what --cpu says, which has to be a model.
func cpuModel(c *cli.Context) (string, error) {
	m, err := cpuid.ParseModel(c.String("cpu"))
	if err != nil {
		return "", fmt.Errorf("--cpu: %w", err)
	}
	return string(m), nil
}
