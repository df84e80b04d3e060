package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

func (p *program) cmdBoot() *cli.Command {
	return &cli.Command{
		Name:  "boot",
		Usage: "boot any kernel and disks in a VM, without image or agent",
		Description: "The terminal is the VM's serial console; ctrl-p ctrl-q leaves it running. The exit\n" +
			"status is 0 after a power-off, 1 after a reboot and 2 after a crash.\n" +
			"--vsock with backend=user opens the unix socket path: a program that sends CONNECT PORT\n" +
			"and a newline reaches that port of the guest, and the guest's connections to the host's\n" +
			"port P go to path_P. With backend=vhost the host's kernel serves the device: programs\n" +
			"on both sides use AF_VSOCK, the CID is this VM's alone on the host, and no path is given.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kernel", EnvVars: []string{"HVCTL_KERNEL"}, Usage: "the kernel `NAME|FILE`: bzImage or ELF vmlinux", DefaultText: "the default of the kernel store"},
			&cli.StringFlag{Name: "initrd", Usage: "the initramfs `FILE`"},
			&cli.StringSliceFlag{Name: "disk", Usage: "a disk, `path=FILE[,OPTION]...`; the first is /dev/vda: " + diskOptions},
			&cli.StringSliceFlag{Name: "pmem", Usage: "a file as memory, `path=FILE[,ro]`; the first is /dev/pmem0"},
			&cli.StringFlag{Name: "cmdline", Usage: "the kernel's command line `TEXT`", DefaultText: "console=ttyS0"},
			&cli.Float64Flag{Name: "cpus", Value: 1, Usage: "`NUMBER` of processors"},
			&cli.StringFlag{Name: "memory", Aliases: []string{"m"}, Value: "512M", Usage: "memory: `SIZE`"},
			&cli.StringFlag{Name: "transport", Usage: "attach devices by `BUS` pci or mmio"},
			&cli.StringFlag{Name: "vsock", Usage: "a socket device, `cid=N[,backend=user|vhost][,path=SOCKET]`"},
			&cli.StringFlag{Name: "network", Value: workload.NetNone, Usage: "`MODE` none, bridge, user or tap:NAME, with options as of hvctl run"},
			&cli.StringSliceFlag{Name: "publish", Aliases: []string{"p"}, Usage: "publish `[IP:]HOSTPORT:PORT[/PROTO]` on the host"},
			&cli.StringFlag{Name: "mac-address", Usage: "Ethernet address `MAC`"},
			&cli.StringFlag{Name: "gdb", Usage: "let gdb debug the guest at `ADDRESS`: unix:PATH or a port of this machine"},
			&cli.BoolFlag{Name: "gdb-wait", Usage: "hold the guest at its first instruction until gdb lets it go"},
			&cli.BoolFlag{Name: "hugepages", Usage: "back memory with huge pages"},
			maxCPUsFlag(""),
			maxMemoryFlag(""),
			balloonFlag(""),
			&cli.StringFlag{Name: "watchdog", Usage: "give the guest a watchdog; when it fires, `ACTION` exit, dump (into guest.core) or pause", DefaultText: "none"},
			&cli.StringFlag{Name: "on-panic", Usage: "when the guest's kernel crashes, `ACTION` exit, dump (into guest.core) or pause", DefaultText: "exit"},
			cpuFlag(),
			&cli.StringFlag{Name: "name", Usage: "call the VM `NAME`"},
			&cli.BoolFlag{Name: "replace", Usage: "remove an ended instance of the same name first"},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "boot in the background and print the ID"},
			&cli.BoolFlag{Name: "rm", Usage: "remove the instance when it ends"},
			detachFlag(),
		},
		Action: p.boot,
	}
}

func (p *program) boot(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef(c, "unexpected argument %q", c.Args().First())
	}
	keys, err := parseDetachKeys(c.String("detach-keys"))
	if err != nil {
		return err
	}
	cfg, err := p.bootConfig(c)
	if err != nil {
		return err
	}
	b, err := p.backend(c, "vm")
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	if err := b.Prepare(ctx, cfg); err != nil {
		return err
	}
	h, run, err := p.launchConfig(ctx, c, b, cfg, launch.Options{Attach: !c.Bool("detach")})
	if err != nil {
		return err
	}
	if c.Bool("detach") {
		fmt.Fprintln(p.stdout, h.ID())
		return nil
	}
	stop()
	tty := term.IsTerminal(int(p.stdin.Fd()))
	exit, err := p.copy(session{stream: run.Stream, stdin: true, tty: tty, detachKeys: keys, proxy: !tty})
	err = p.ended(c.Context, h, exit, err)
	if exit != (workload.Exit{}) {
		run.WaitOwner(ownerGrace)
	}
	return err
}

func (p *program) bootConfig(c *cli.Context) (*workload.Config, error) {
	cmdline := c.String("cmdline")
	if !c.IsSet("cmdline") {
		cmdline = "console=ttyS0"
	}
	cfg := &workload.Config{
		ID: instance.NewID(), Name: c.String("name"), Backend: "vm", OpenStdin: true, AutoRemove: c.Bool("rm"),
		StopTimeoutSeconds: defaultStopTimeout,
		Image:              workload.Image{Ref: "(boot)"},
		VM: workload.VM{
			Raw: true, KernelRef: c.String("kernel"), Cmdline: cmdline, Transport: c.String("transport"), HugePages: c.Bool("hugepages"),
		},
		// The console is the first process's terminal; nothing of it is run.
		Spec: &specs.Spec{Version: specs.Version, Process: &specs.Process{Terminal: true, Args: []string{"(console)"}, Cwd: "/"}},
	}
	var errs []error
	errs = append(errs, debugger(c, cfg), balloonOf(c, cfg), maxCPUs(c, cfg), maxMemory(c, cfg), atEnds(c, cfg))
	model, err := cpuModel(c)
	cfg.VM.CPU, errs = model, append(errs, err)
	if cfg.Name != "" {
		errs = append(errs, instance.CheckName(cfg.Name))
	}
	errs = append(errs, resources(c, cfg), network(c, cfg))
	for _, s := range c.StringSlice("disk") {
		d, err := parseDisk(s)
		errs = append(errs, err)
		cfg.VM.Disks = append(cfg.VM.Disks, d)
	}
	for _, s := range c.StringSlice("pmem") {
		m, err := parsePmem(s)
		errs = append(errs, err)
		cfg.VM.Pmem = append(cfg.VM.Pmem, m)
	}
	if s := c.String("vsock"); c.IsSet("vsock") {
		v, err := parseVsock(s)
		errs = append(errs, err)
		cfg.VM.Vsock = v
	}
	if f := c.String("initrd"); f != "" {
		abs, err := filepath.Abs(f)
		if err == nil {
			_, err = os.Stat(abs)
		}
		if err != nil {
			err = fmt.Errorf("initrd: %w", err)
		}
		errs = append(errs, err)
		cfg.VM.Initrd = abs
	}
	if t := cfg.VM.Transport; t != "" && t != "pci" && t != "mmio" {
		errs = append(errs, fmt.Errorf("transport %q: use pci or mmio", t))
	}
	if cfg.Net.Mode == workload.NetHost {
		errs = append(errs, fmt.Errorf("--network host: %w; use none or bridge", workload.ErrUnsupported))
	}
	return cfg, errors.Join(errs...)
}
