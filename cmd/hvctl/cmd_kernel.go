package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/images/kernel"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdKernel() *cli.Command {
	name := &cli.StringFlag{Name: "name", Usage: "call it `NAME`", DefaultText: "its version"}
	return &cli.Command{
		Name:  "kernel",
		Usage: "manage the kernels that VMs boot",
		Subcommands: []*cli.Command{
			{
				Name:  "fetch",
				Usage: "get the newest Debian kernel and its modules through this host's apt",
				Flags: []cli.Flag{
					name,
					&cli.StringFlag{Name: "flavour", Value: string(kernel.Cloud), Usage: "`KIND` cloud or generic"},
					jsonFlag(),
				},
				Action: p.kernelFetch,
			},
			{
				Name:        "build",
				Usage:       "build the minimal kernel from Debian's linux-source",
				Description: "Takes some minutes; the result is cached.",
				Flags:       []cli.Flag{&cli.StringFlag{Name: "name", Value: "minimal", Usage: "call it `NAME`"}, jsonFlag()},
				Action:      p.kernelBuild,
			},
			{
				Name:      "import",
				Usage:     "copy a kernel, a bzImage or an ELF vmlinux, into the store",
				ArgsUsage: "FILE",
				Flags: []cli.Flag{
					name,
					&cli.StringFlag{Name: "modules", Usage: "its modules are in `DIR`"},
					jsonFlag(),
				},
				Action: p.kernelImport,
			},
			{Name: "ls", Aliases: []string{"list"}, Usage: "list kernels", Flags: []cli.Flag{jsonFlag()}, Action: p.kernelList},
			{Name: "rm", Usage: "remove kernels", ArgsUsage: "NAME...", BashComplete: p.completeKernels, Action: p.kernelRemove},
			{Name: "default", Usage: "print or choose the kernel that is used when none is named", ArgsUsage: "[NAME]", BashComplete: p.completeKernels, Action: p.kernelDefault},
		},
	}
}

func (p *program) kernels(c *cli.Context) (*kernel.Store, error) {
	d, err := storeDir(c)
	if err != nil {
		return nil, err
	}
	return kernel.Open(filepath.Join(d, "kernels"))
}

func (p *program) kernelFetch(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef(c, "unexpected argument %q", c.Args().First())
	}
	o := kernel.FetchOptions{Flavour: kernel.Flavour(c.String("flavour")), Name: c.String("name")}
	if o.Flavour != kernel.Cloud && o.Flavour != kernel.Generic {
		return usagef(c, "--flavour %q: use cloud or generic", o.Flavour)
	}
	if p.terminal() {
		o.Note = func(s string) { fmt.Fprintln(p.stderr, s) }
	}
	s, err := p.kernels(c)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	k, err := s.Fetch(ctx, o)
	if err != nil {
		return err
	}
	return p.printKernel(c, k)
}

func (p *program) kernelBuild(c *cli.Context) error {
	script, err := findScript("build-kernel")
	if err != nil {
		return err
	}
	s, err := p.kernels(c)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	cmd := exec.CommandContext(ctx, script)
	cmd.Stderr = p.stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", script, err)
	}
	dir := strings.TrimSpace(string(out))
	if i := strings.LastIndexByte(dir, '\n'); i >= 0 {
		dir = dir[i+1:]
	}
	k, err := s.Import(ctx, c.String("name"), filepath.Join(dir, "vmlinuz"), "")
	if err != nil {
		return err
	}
	return p.printKernel(c, k)
}

// findScript finds a script of hvctl's: installed, or in the source tree that
// bin/hvctl was built in.
func findScript(name string) (string, error) {
	path, err := findHelper(name)
	if err == nil {
		return path, nil
	}
	self, serr := os.Executable()
	if serr != nil {
		return "", serr
	}
	path = filepath.Join(filepath.Dir(self), "..", "scripts", name)
	if _, serr := os.Stat(path); serr != nil {
		return "", err
	}
	return path, nil
}

func (p *program) kernelImport(c *cli.Context) error {
	if c.NArg() != 1 {
		return usagef(c, "%d arguments given, want one kernel file", c.NArg())
	}
	s, err := p.kernels(c)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	k, err := s.Import(ctx, c.String("name"), c.Args().First(), c.String("modules"))
	if err != nil {
		return err
	}
	return p.printKernel(c, k)
}

func (p *program) printKernel(c *cli.Context, k *kernel.Kernel) error {
	if c.Bool("json") {
		return p.printJSON(k)
	}
	fmt.Fprintln(p.stdout, k.Name)
	return nil
}

// kernelInfo is one line of kernel ls.
type kernelInfo struct {
	*kernel.Kernel
	Path    string `json:"path"`
	Modules string `json:"modules,omitempty"`
	Default bool   `json:"default"`
}

func (p *program) kernelList(c *cli.Context) error {
	s, err := p.kernels(c)
	if err != nil {
		return err
	}
	ks, damaged := s.List()
	all := []kernelInfo{}
	for _, k := range ks {
		all = append(all, kernelInfo{Kernel: k, Path: k.Path, Modules: k.ModulesDir, Default: k.Default})
	}
	if c.Bool("json") {
		if err := p.printJSON(all); err != nil {
			return err
		}
		return damaged
	}
	t := newTable(p.stdout, "NAME", "VERSION", "FORMAT", "SIZE", "MODULES", "DEFAULT")
	for _, k := range all {
		mods, def := "no", ""
		if k.Modules != "" {
			mods = "yes"
		}
		if k.Default {
			def = "*"
		}
		t.row(k.Name, k.Version, string(k.Format), bytesText(uint64(max(k.Size, 0))), mods, def)
	}
	if err := t.flush(); err != nil {
		return err
	}
	return damaged
}

func (p *program) kernelRemove(c *cli.Context) error {
	if c.NArg() == 0 {
		return usagef(c, "no kernel given")
	}
	s, err := p.kernels(c)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range c.Args().Slice() {
		if err := s.Remove(c.Context, name); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(p.stdout, name)
	}
	return errors.Join(errs...)
}

func (p *program) kernelDefault(c *cli.Context) error {
	s, err := p.kernels(c)
	if err != nil {
		return err
	}
	if c.NArg() > 1 {
		return usagef(c, "%d arguments given, want one kernel at most", c.NArg())
	}
	if c.NArg() == 1 {
		return s.SetDefault(c.Context, c.Args().First())
	}
	k, err := s.Default()
	if err != nil {
		return err
	}
	fmt.Fprintln(p.stdout, k.Name)
	return nil
}
