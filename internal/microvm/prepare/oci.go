package prepare

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/boot"
	"github.com/hvctl/hvctl/internal/ocivm/config"
	"github.com/hvctl/hvctl/internal/workload"
)

// Annotations by which a bundle says what its VM has, where the vm section of
// OCI 1.3 is out of reach of those who use an engine.
const (
	AnnotationCPUs   = "hvctl.vm.cpus"
	AnnotationMemory = "hvctl.vm.memory" // bytes
	AnnotationKernel = "hvctl.vm.kernel" // name in the kernel store, or path
)

// ownMemory is what is kept of a container's memory limit for the VMM, its page
// cache included, in bytes; the rest is the guest's RAM.
const ownMemory = 24 << 20

// OCI prepares the VM of a container engine's bundle; its owner runs in the
// container (package ocivm), so that mounts, namespaces and cgroup are the
// container's. What cannot be honoured is refused, all of it at once.
func (b *Backend) OCI(ctx context.Context, id string, s *specs.Spec) (*config.Config, error) {
	if s.Process == nil {
		return nil, errors.New("process: a VM's bundle has to have one")
	}
	c := &config.Config{Config: workload.Config{ID: id, Name: id, Spec: guestSpec(s), Rootfs: workload.Rootfs{ReadOnly: s.Root != nil && s.Root.Readonly, Dir: "/"}}}
	c.VM.Transport = DefaultTransport
	var errs []error
	net, err := ownNetwork(s)
	errs = append(errs, err, refuseOutside(s))
	c.Net.Mode = workload.NetNone
	if net {
		c.Net.Mode, c.Adopt = workload.NetBridge, true // Mode is for the choice of modules
	}
	c.Res.CPUs, err = ociCPUs(s)
	errs = append(errs, err)
	c.Res.MemoryBytes, err = ociMemory(s)
	errs = append(errs, err)
	if s.Linux != nil && s.Linux.Resources != nil && s.Linux.Resources.Pids != nil && s.Linux.Resources.Pids.Limit != nil {
		c.Res.PIDs = max(*s.Linux.Resources.Pids.Limit, 0)
	}
	c.VM.KernelRef = s.Annotations[AnnotationKernel]
	if s.VM != nil && s.VM.Kernel.Path != "" {
		c.VM.KernelRef = s.VM.Kernel.Path
		for _, p := range s.VM.Kernel.Parameters {
			c.VM.Cmdline += " " + p
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", workload.ErrUnsupported, err)
	}
	if err := b.Prepare(ctx, &c.Config); err != nil {
		return nil, err
	}
	// The owner can only read the cache.
	k, err := boot.OpenKernel(c.VM.Kernel, c.VM.KernelCache)
	if err != nil {
		return nil, err
	}
	return c, errors.Join(k.Close(), os.MkdirAll(c.VM.KernelCache, 0o755))
}

// guestSpec is the part of a configuration that is carried out in the guest.
func guestSpec(s *specs.Spec) *specs.Spec {
	g := &specs.Spec{Version: s.Version, Process: s.Process, Root: s.Root, Hostname: s.Hostname, Domainname: s.Domainname}
	if l := s.Linux; l != nil {
		g.Linux = &specs.Linux{
			Sysctl: l.Sysctl, Seccomp: l.Seccomp, MaskedPaths: l.MaskedPaths, ReadonlyPaths: l.ReadonlyPaths,
			TimeOffsets: l.TimeOffsets, Personality: l.Personality, MountLabel: l.MountLabel,
		}
	}
	return g
}

// refuseOutside lists what the container around the VM could have and the
// guest not.
func refuseOutside(s *specs.Spec) error {
	var errs []error
	if l := s.Linux; l != nil && len(l.Devices) > 0 {
		errs = append(errs, errors.New("linux.devices: a guest has no devices of the host"))
	}
	if v := s.VM; v != nil {
		if v.Hypervisor.Path != "" || len(v.Hypervisor.Parameters) > 0 {
			errs = append(errs, errors.New("vm.hypervisor: hvctl is its own"))
		}
		if v.Image.Path != "" {
			errs = append(errs, errors.New("vm.image: the root file system is the bundle's; boot an image with hvctl boot"))
		}
		if v.Kernel.InitRD != "" {
			errs = append(errs, errors.New("vm.kernel.initrd: the guest needs hvctl's own"))
		}
	}
	return errors.Join(errs...)
}

// ownNetwork tells whether the container has a network namespace of its own.
func ownNetwork(s *specs.Spec) (bool, error) {
	if s.Linux != nil {
		for _, n := range s.Linux.Namespaces {
			if n.Type == specs.NetworkNamespace {
				return true, nil
			}
		}
	}
	return false, errors.New("linux.namespaces: without a network namespace the container shares the host's network, which a VM cannot")
}

// ociCPUs is how many processors the guest has: what is asked for, or as many
// as the limits let it use.
func ociCPUs(s *specs.Spec) (float64, error) {
	if s.VM != nil && s.VM.HwConfig != nil && s.VM.HwConfig.VCPUs != nil {
		return float64(*s.VM.HwConfig.VCPUs), nil
	}
	if a := s.Annotations[AnnotationCPUs]; a != "" {
		n, err := strconv.ParseUint(a, 10, 16)
		if err != nil || n == 0 {
			return 0, fmt.Errorf("annotation %s=%q: want a number of processors", AnnotationCPUs, a)
		}
		return float64(n), nil
	}
	if s.Linux == nil || s.Linux.Resources == nil || s.Linux.Resources.CPU == nil {
		return 1, nil
	}
	c := s.Linux.Resources.CPU
	if c.Quota != nil && *c.Quota > 0 {
		period := uint64(100_000) // the kernel's default
		if c.Period != nil && *c.Period > 0 {
			period = *c.Period
		}
		return math.Ceil(float64(*c.Quota) / float64(period)), nil
	}
	return 1, nil
}

// ociMemory is the guest's RAM: what is asked for, or what the container's
// limit leaves, or the default.
func ociMemory(s *specs.Spec) (uint64, error) {
	if s.VM != nil && s.VM.HwConfig != nil && s.VM.HwConfig.Memory != nil {
		return *s.VM.HwConfig.Memory, nil
	}
	if a := s.Annotations[AnnotationMemory]; a != "" {
		n, err := strconv.ParseUint(a, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("annotation %s=%q: want a number of bytes", AnnotationMemory, a)
		}
		return n, nil
	}
	if s.Linux == nil || s.Linux.Resources == nil || s.Linux.Resources.Memory == nil {
		return DefaultMemory, nil
	}
	m := s.Linux.Resources.Memory
	if m.Limit == nil || *m.Limit <= 0 {
		return DefaultMemory, nil
	}
	const least = 64 << 20
	if *m.Limit < ownMemory+least {
		return 0, fmt.Errorf("linux.resources.memory.limit: %d MiB are too few: a guest needs %d, and its VMM %d beside it", *m.Limit>>20, least>>20, ownMemory>>20)
	}
	return uint64(*m.Limit-ownMemory) &^ (1<<20 - 1), nil
}
