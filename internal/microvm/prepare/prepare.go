// Package prepare is the command line's half of the VM backend: it chooses the
// kernel, builds the initramfs and fills in defaults, before the process that
// owns the VM is started. It may be as heavy as it likes; that process does not
// link it.
package prepare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/images/kernel"
	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/initrd"
	"github.com/hvctl/hvctl/internal/machine/limits"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Options say where things are.
type Options struct {
	VMM       string // the owner program, hvctl-vmm
	Hvinit    string // the guest's init
	KernelDir string // the kernel store
	CacheDir  string // for unpacked kernels and initramfs archives
}

// Backend makes microVMs.
type Backend struct{ o Options }

var _ workload.Backend = (*Backend)(nil)

// New returns the backend.
func New(o Options) *Backend { return &Backend{o} }

// Name implements workload.Backend.
func (b *Backend) Name() string { return "vm" }

// Command implements workload.Backend.
func (b *Backend) Command() ([]string, error) { return []string{b.o.VMM}, nil }

// Cleanup implements workload.Cleaner: the owner program knows what owners
// leave.
func (b *Backend) Cleanup(ctx context.Context, root string) error {
	out, err := exec.CommandContext(ctx, b.o.VMM, "cleanup", root).CombinedOutput()
	if err != nil {
		return fmt.Errorf("clean up after a killed VM: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// DefaultMemory is a VM's RAM when nothing is said.
const DefaultMemory = 512 << 20

// DefaultTransport is measured to boot faster: docs/adr/0006-default-transport.md.
const DefaultTransport = "mmio"

// baseCmdline is what every workload's kernel is told: errors go to the serial
// port, which hvctl keeps in console.log; a panic ends the VM at once; nothing
// is probed that this machine does not have.
const baseCmdline = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests"

// growCmdline has the kernel use memory that it is given, most of it for what it can
// move away again: three times as much as for what it cannot.
const growCmdline = "memhp_default_state=online memory_hotplug.online_policy=auto-movable"

// transportCmdline is what the kernel is told of the transport: without a PCI
// bus it need not look for one.
var transportCmdline = map[string]string{"mmio": " pci=off", "pci": ""}

// Prepare implements workload.Backend.
func (b *Backend) Prepare(_ context.Context, c *workload.Config) error {
	if c.Res.MemoryBytes == 0 {
		c.Res.MemoryBytes = DefaultMemory
	}
	if c.VM.Transport == "" {
		c.VM.Transport = DefaultTransport
	}
	if c.Net.Mode == "" {
		c.Net.Mode = workload.DefaultNetwork(os.Geteuid())
	}
	if err := check(c); err != nil {
		return err
	}
	k, err := b.kernel(c.VM.KernelRef)
	if err != nil {
		return err
	}
	c.VM.Kernel, c.VM.KernelCache = k.Path, filepath.Join(b.o.CacheDir, "kernels")
	c.VM.KernelRef = strings.TrimSpace(k.Name + " " + k.Version)
	if c.VM.Raw {
		return nil // the user's own initramfs and command line
	}
	if c.VM.MaxMemoryBytes > 0 {
		c.VM.Cmdline = strings.TrimSpace(growCmdline + " " + c.VM.Cmdline)
	}
	c.VM.Cmdline = strings.TrimSpace(baseCmdline + transportCmdline[c.VM.Transport] + " " + c.VM.Cmdline)
	c.VM.Initrd, err = b.initrd(k, c)
	return err
}

// check refuses what a VM cannot honour, with every reason at once.
func check(c *workload.Config) error {
	var errs []error
	if n := c.Res.CPUs; n < 0 || n > limits.MaxCPUs {
		errs = append(errs, fmt.Errorf("--cpus %g: a VM has 1 to %d", n, limits.MaxCPUs))
	}
	if n := c.Res.CPUs; n > 0 && n < cgroup.MinCPUs {
		errs = append(errs, fmt.Errorf("--cpus %g: the kernel gives no less than %g of a processor", n, cgroup.MinCPUs))
	}
	if n := c.VM.MaxCPUs; n != 0 && (n < int(math.Ceil(c.Res.CPUs)) || n < 1 || n > limits.MaxCPUs) {
		errs = append(errs, fmt.Errorf("--max-cpus %d: a VM that starts with --cpus %g has that many to %d", n, c.Res.CPUs, limits.MaxCPUs))
	}
	if c.VM.MaxCPUs != 0 && c.Res.Deadline != nil {
		errs = append(errs, errors.New("--max-cpus and --cpu-deadline: the time that is promised is that of the processors from the start"))
	}
	if m := c.Res.MemoryBytes; m < limits.MinMemory || m > limits.MaxMemory {
		asked := fmt.Sprintf("%d MiB", m>>20)
		if m < 1<<20 { // most likely a forgotten unit
			asked = fmt.Sprintf("%d bytes (write %dm for MiB)", m, m)
		}
		errs = append(errs, fmt.Errorf("--memory %s: a VM has %d to %d MiB", asked, limits.MinMemory>>20, limits.MaxMemory>>20))
	} else if m%4096 != 0 {
		c.Res.MemoryBytes = m &^ 4095
	}
	errs = append(errs, checkGrowth(c))
	if c.Net.Mode == workload.NetHost {
		errs = append(errs, errors.New("--network host: a VM cannot share the host's network; use bridge, user or none"))
	}
	if n := c.Net.Queues; n < 0 || n > limits.MaxNetQueues {
		errs = append(errs, fmt.Errorf("--network queues=%d: a VM has 1 to %d", n, limits.MaxNetQueues))
	}
	if t := c.VM.Transport; t != "mmio" && t != "pci" {
		errs = append(errs, fmt.Errorf("--transport %s: there are mmio and pci", t))
	}
	if b := c.VM.Balloon; b != nil && b.TargetBytes >= c.Res.MemoryBytes {
		errs = append(errs, fmt.Errorf("--balloon: the VM has %d MiB of memory, which cannot all be taken from it", c.Res.MemoryBytes>>20))
	}
	errs = append(errs, refuse(c.Spec)...)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", workload.ErrUnsupported, err)
	}
	return nil
}

// checkGrowth judges --max-memory.
func checkGrowth(c *workload.Config) error {
	most := c.VM.MaxMemoryBytes
	switch {
	case most == 0:
		return nil
	case most < c.Res.MemoryBytes || most > limits.MaxMemory:
		return fmt.Errorf("--max-memory %d MiB: a VM that starts with %d MiB has that many to %d", most>>20, c.Res.MemoryBytes>>20, limits.MaxMemory>>20)
	case c.VM.HugePages:
		return errors.New("--max-memory and --hugepages: pages of the host's pool are taken when the VM starts; choose one")
	}
	return nil
}

func (b *Backend) kernel(ref string) (*kernel.Kernel, error) {
	s, err := kernel.Open(b.o.KernelDir)
	if err != nil {
		return nil, err
	}
	if ref != "" {
		return s.Get(ref)
	}
	k, err := s.Default()
	if errors.Is(err, kernel.ErrNotFound) {
		return nil, fmt.Errorf("no guest kernel yet: get one with `hvctl kernel fetch`, or `hvctl kernel import FILE`: %w", err)
	}
	return k, err
}

// initrd builds the initramfs with the modules that this VM needs.
func (b *Backend) initrd(k *kernel.Kernel, c *workload.Config) (string, error) {
	var names, required []string
	for _, w := range initrd.Wanted() {
		if !needed(w.Name, c) {
			continue
		}
		names = append(names, w.Name)
		if w.Required {
			required = append(required, w.Name)
		}
	}
	mods, err := kernel.Modules(k, names)
	if unknown, ok := errors.AsType[*kernel.UnknownModulesError](err); ok {
		for _, n := range unknown.Names {
			if n == "virtio_pmem" || n == "nd_pmem" {
				return "", fmt.Errorf("--rootfs pmem: %w; use --rootfs blk, or another kernel", err)
			}
			if n == "virtio_mem" {
				return "", fmt.Errorf("--max-memory: %w; use another kernel", err)
			}
			if slices.Contains(required, n) {
				return "", fmt.Errorf("kernel %s cannot run workloads: %w", k.Name, err)
			}
		}
	} else if err != nil {
		return "", err
	}
	o := initrd.Options{Hvinit: b.o.Hvinit}
	for _, m := range mods {
		o.Modules = append(o.Modules, initrd.Module{Name: m.Name, Path: m.Path})
	}
	return initrd.File(filepath.Join(b.o.CacheDir, "initrd"), o)
}

// needed leaves out what this VM has no device or file system for.
func needed(module string, c *workload.Config) bool {
	shared := c.Rootfs.Dir != ""
	switch module {
	case "overlay":
		return !shared
	case "virtio_blk":
		return !shared && c.VM.Rootfs != workload.RootfsPmem || len(c.VM.Disks) > 0
	case "virtio_pmem", "nd_pmem":
		return !shared && c.VM.Rootfs == workload.RootfsPmem
	case "virtio_pci":
		return c.VM.Transport == "pci"
	case "virtio_mmio":
		return c.VM.Transport == "mmio"
	case "virtio_console":
		return false // the console is the serial port
	case "wdat_wdt":
		return c.VM.Watchdog != ""
	case "virtio_balloon":
		return c.VM.Balloon != nil
	case "virtio_mem":
		return c.VM.MaxMemoryBytes > 0
	case "virtio_net":
		return c.Net.Mode != workload.NetNone || c.VM.Transport == "pci" // an interface may be plugged in
	case "virtiofs":
		return shared || c.Spec != nil && slices.ContainsFunc(c.Spec.Mounts, func(m specs.Mount) bool { return m.Type == "bind" })
	case "ext4":
		return c.Rootfs.FSType == "ext4" || len(c.VM.Disks) > 0
	case "erofs":
		return c.Rootfs.FSType == "erofs"
	}
	return true
}
