package machine

import (
	"errors"
	"os"
	"runtime"
	"slices"

	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/vcpu/cpuid"
)

// CPU is a processor as a guest sees it.
type CPU struct {
	cpuid.Traits
	TSCkHz uint64
}

// GuestCPU returns the processor that the guest was told it has.
func (m *Machine) GuestCPU() (c CPU, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.ended.Load() {
		return c, ErrEnded
	}
	told, err := m.cpus[0].Told()
	if err != nil {
		return c, m.orEnded(err)
	}
	c.Traits = cpuid.TraitsOf(policyCPUID(told))
	err = m.cpus[0].Do(func(v *kvm.VCPU) error {
		if khz, err := v.TSCKHz(); err == nil { // an unstable one has no frequency
			c.TSCkHz = uint64(khz)
		}
		return nil
	})
	return c, m.orEnded(err)
}

// HostCPU returns the processor that a guest of so many vCPUs would see here.
// dev is an open /dev/kvm, or nil to open it.
func HostCPU(dev *os.File, cpus int) (c CPU, err error) {
	var sys *kvm.System
	if dev != nil {
		sys, err = kvm.Adopt(dev)
	} else {
		sys, err = kvm.Open()
	}
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, sys.Close()) }()
	vm, err := sys.CreateVM()
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, vm.Close()) }()
	if err := vm.CreateIRQChip(); err != nil { // some features need it
		return c, err
	}
	runtime.LockOSThread() // KVM wants a vCPU used by one thread
	defer runtime.UnlockOSThread()
	v, err := vm.CreateVCPU(0)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	raw, err := sys.SupportedCPUID()
	if err != nil {
		return c, err
	}
	m := &Machine{cfg: Config{MaxCPUs: max(cpus, 1)}}
	offered, err := m.offer(v, policyCPUID(slices.Clone(raw)), cpuid.Host)
	if err != nil {
		return c, err
	}
	c.Traits = cpuid.TraitsOf(offered)
	if khz, err := v.TSCKHz(); err == nil {
		c.TSCkHz = uint64(khz)
	}
	return c, nil
}
