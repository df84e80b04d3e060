package prepare

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/ocivm/config"
	"github.com/hvctl/hvctl/internal/workload"
)

// Pod prepares the VM of a pod, whose sandbox has the configuration s. Its size is
// the pod's, as the sandbox's annotations have it.
func (b *Backend) Pod(ctx context.Context, id string, s *specs.Spec) (*config.Config, error) {
	sized, err := podSized(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", workload.ErrUnsupported, err)
	}
	c, err := b.OCI(ctx, id, sized)
	if err != nil {
		return nil, err
	}
	c.Spec.Process = nil // what the sandbox would run only waits
	return c, nil
}

// Annotations by which containerd's CRI plugin says what a pod's containers may
// use together.
const (
	sandboxMemory = "io.kubernetes.cri.sandbox-memory" // bytes
	sandboxQuota  = "io.kubernetes.cri.sandbox-cpu-quota"
	sandboxPeriod = "io.kubernetes.cri.sandbox-cpu-period"
)

// podSized is a sandbox's configuration with the pod's limits in place of its own.
func podSized(s *specs.Spec) (*specs.Spec, error) {
	sized, linux := *s, specs.Linux{}
	if s.Linux != nil {
		linux = *s.Linux
	}
	var errs []error
	number := func(annotation string) *int64 {
		a := s.Annotations[annotation]
		if a == "" {
			return nil
		}
		n, err := strconv.ParseInt(a, 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("annotation %s=%q: want a number", annotation, a))
		}
		if n <= 0 { // -1: no limit
			return nil
		}
		return &n
	}
	cpu := &specs.LinuxCPU{Quota: number(sandboxQuota)}
	if p := number(sandboxPeriod); p != nil {
		cpu.Period = new(uint64(*p))
	}
	linux.Resources = &specs.LinuxResources{CPU: cpu, Memory: &specs.LinuxMemory{Limit: number(sandboxMemory)}}
	sized.Linux = &linux
	return &sized, errors.Join(errs...)
}

// Member prepares a container of a pod that has a VM. What it cannot have there is
// refused, all of it at once.
func (b *Backend) Member(s *specs.Spec) (*config.Member, error) {
	m := &config.Member{Spec: guestSpec(s)}
	errs := append(refuse(m.Spec), refuseOutside(s))
	kinds := map[specs.LinuxNamespaceType]specs.LinuxNamespace{}
	if s.Linux != nil {
		for _, n := range s.Linux.Namespaces {
			kinds[n.Type] = n
		}
		m.Limits = guestLimits(s.Linux.Resources)
	}
	for _, t := range []specs.LinuxNamespaceType{specs.IPCNamespace, specs.UTSNamespace} {
		if kinds[t].Path == "" {
			errs = append(errs, fmt.Errorf("linux.namespaces: %s: a pod's VM has one for all its containers; give the sandbox's path", t))
		}
	}
	switch pid, ok := kinds[specs.PIDNamespace]; {
	case !ok:
		errs = append(errs, errors.New("linux.namespaces: without a PID namespace the container would see the host's processes, which a VM cannot"))
	default:
		m.SharePIDs = pid.Path != ""
	}
	if _, ok := kinds[specs.UserNamespace]; ok {
		errs = append(errs, errors.New("linux.namespaces: user: a pod's VM serves the files of all its containers as one user; the guest is the border"))
	}
	if s.VM != nil && (s.VM.HwConfig != nil || s.VM.Kernel.Path != "") {
		errs = append(errs, errors.New("vm: the VM is the pod's; say it by the sandbox's annotations"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", workload.ErrUnsupported, err)
	}
	return m, nil
}

// guestLimits are those that a container of a pod has in the guest.
func guestLimits(r *specs.LinuxResources) (l guestproto.Limits) {
	if r == nil {
		return l
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		l.PIDs = max(*r.Pids.Limit, 0)
	}
	if r.Memory != nil && r.Memory.Limit != nil {
		l.MemoryBytes = uint64(max(*r.Memory.Limit, 0))
	}
	if c := r.CPU; c != nil && c.Quota != nil && *c.Quota > 0 {
		l.CPUQuotaUs, l.CPUPeriodUs = uint64(*c.Quota), 100_000 // the kernel's default
		if c.Period != nil && *c.Period > 0 {
			l.CPUPeriodUs = *c.Period
		}
	}
	return l
}
