package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/hvctl/hvctl/internal/machine/limits"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/vcpu/cpuid"
	"github.com/hvctl/hvctl/virtio"
)

// Transport is how virtio devices are attached.
type Transport string

// The transports.
const (
	MMIO Transport = "mmio" // registers declared in ACPI, one I/O APIC pin each
	PCI  Transport = "pci"  // virtio-pci functions with MSI-X
)

// ErrEnded is wrapped by calls on a machine whose Run has returned, or that is
// closed.
var ErrEnded = errors.New("the machine has ended")

// ErrConfig is wrapped when a Config asks for something that cannot be.
var ErrConfig = errors.New("machine configuration")

// Device is one virtio device to make, from the registry or ready made.
type Device struct {
	Kind string // a name in devices.Registry; ignored when Device is set
	Args virtio.Args
	// Device, when set, is taken over as it is: New closes it when it fails.
	Device virtio.Device
}

// CPUModel is what a guest is shown of the host's processor.
type CPUModel = cpuid.Model

// Config is everything a machine is made of.
type Config struct {
	CPUs        int      // 1 to limits.MaxCPUs; 0 means 1
	MaxCPUs     int      // CPUs to limits.MaxCPUs: how many SetCPUs may give it; 0 means CPUs
	CPUModel    CPUModel // what a guest that boots is shown of the processor; empty means cpuid.Host
	MemoryBytes uint64   // a multiple of 4 KiB; limits.MinMemory to limits.MaxMemory
	// MaxMemoryBytes is how much SetMemory may give it, MemoryBytes to limits.MaxMemory;
	// 0 means MemoryBytes. Not with HugePages, or RAM that comes from a file.
	MaxMemoryBytes uint64
	HugePages      bool // RAM from the host's pool of 2 MiB pages

	Kernel      string   // file: vmlinux or bzImage
	KernelCache string   // directory for unpacked kernels; empty: unpack each time
	Initrds     []string // files, concatenated
	Cmdline     string

	// KVM is an open /dev/kvm, for who cannot open it; it stays the caller's. nil
	// opens it.
	KVM *os.File

	// Restore, when set, builds a machine for LoadState in place of one that
	// boots: there is no kernel then, and the machine is paused.
	Restore *Restore

	Transport Transport // empty means MMIO
	Devices   []Device  // in the order the guest discovers them

	// SerialOut is where COM1 goes; nil means that there is no COM1. The
	// writer must not block for long: it stops a vCPU, and with it Pause and
	// the end of Run.
	SerialOut io.Writer

	// Watchdog gives the guest one; the machine ends with WatchdogFired when it fires.
	Watchdog bool

	// CPUThread runs on the thread of every vCPU before the guest does; nil is
	// fine. It may say how the host schedules the thread.
	CPUThread func() error

	// Ending, when set, is called when the guest has ended by itself, before its
	// vCPUs go; the machine waits for it, and it can still be looked at, paused
	// and dumped. It returns when ctx, which is Run's, ends.
	Ending func(ctx context.Context, e End)

	// Mark is told when each stage of the start is reached; nil is fine. It is
	// called from any goroutine and must be quick.
	Mark func(stage string)
	Log  *slog.Logger
}

// Restore says what a machine for LoadState is made of.
type Restore struct {
	// RAM is where the guest's memory comes from, read as it is touched; nil
	// starts with zeroes, for who fills Machine.Regions.
	RAM *memory.Image
	// Memory is the memfd of a machine in another process on this host, whose guest
	// this one goes on with; New takes it over when it succeeds. Until Resume it is
	// the other machine's, and nothing here writes to it. Not with RAM.
	Memory *os.File
	// FollowTime lets the guest's clocks advance by the time that has passed
	// since they were saved, MaxClockJump at most: a guest that moves to another
	// host. Otherwise they go on where they were: a guest that is copied.
	FollowTime bool
}

func (c *Config) check() error {
	if c.CPUs == 0 {
		c.CPUs = 1
	}
	if c.MaxCPUs == 0 {
		c.MaxCPUs = c.CPUs
	}
	if c.Transport == "" {
		c.Transport = MMIO
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Mark == nil {
		c.Mark = func(string) {}
	}
	switch {
	case c.CPUs < 1 || c.CPUs > limits.MaxCPUs:
		return fmt.Errorf("%w: %d vCPUs; 1 to %d are possible", ErrConfig, c.CPUs, limits.MaxCPUs)
	case c.MaxCPUs < c.CPUs || c.MaxCPUs > limits.MaxCPUs:
		return fmt.Errorf("%w: %d vCPUs at most; a machine that starts with %d can have %d to %d", ErrConfig, c.MaxCPUs, c.CPUs, c.CPUs, limits.MaxCPUs)
	case c.MemoryBytes < limits.MinMemory || c.MemoryBytes > limits.MaxMemory:
		return fmt.Errorf("%w: %d MiB of memory; %d to %d MiB are possible", ErrConfig, c.MemoryBytes>>20, limits.MinMemory>>20, limits.MaxMemory>>20)
	case c.MaxMemoryBytes != 0 && (c.MaxMemoryBytes < c.MemoryBytes || c.MaxMemoryBytes > limits.MaxMemory):
		return fmt.Errorf("%w: %d MiB of memory at most; a machine that starts with %d MiB can have %d to %d", ErrConfig,
			c.MaxMemoryBytes>>20, c.MemoryBytes>>20, c.MemoryBytes>>20, limits.MaxMemory>>20)
	case c.MaxMemoryBytes > c.MemoryBytes && !c.fits():
		return fmt.Errorf("%w: memory that grows from %d to %d MiB does not fit below %d GiB", ErrConfig, c.MemoryBytes>>20, c.MaxMemoryBytes>>20, pci64Base>>30)
	case c.MaxMemoryBytes > c.MemoryBytes && c.HugePages:
		return fmt.Errorf("%w: memory that can grow has no huge pages", ErrConfig)
	case c.MaxMemoryBytes > c.MemoryBytes && c.Restore != nil && c.Restore.RAM != nil:
		return fmt.Errorf("%w: memory that can grow cannot be mapped from a file", ErrConfig)
	case c.MemoryBytes%4096 != 0:
		return fmt.Errorf("%w: memory of %d bytes is no multiple of the 4096-byte page", ErrConfig, c.MemoryBytes)
	case c.HugePages && c.MemoryBytes%(2<<20) != 0:
		return fmt.Errorf("%w: memory of %d bytes is no multiple of the 2 MiB huge page", ErrConfig, c.MemoryBytes)
	case c.Transport != MMIO && c.Transport != PCI:
		return fmt.Errorf("%w: transport %q; there are mmio and pci", ErrConfig, c.Transport)
	case c.Restore != nil && c.Restore.RAM != nil && c.HugePages:
		return fmt.Errorf("%w: memory that is mapped from a file has no huge pages", ErrConfig)
	case c.Restore != nil && c.Restore.RAM != nil && c.Restore.Memory != nil:
		return fmt.Errorf("%w: memory from a file and from another machine", ErrConfig)
	case c.Restore == nil && c.Kernel == "":
		return fmt.Errorf("%w: no kernel given", ErrConfig)
	}
	return nil
}
