package kvm

import "fmt"

// ClockData is struct kvm_clock_data: the VM's kvmclock, in nanoseconds since
// it was created.
type ClockData struct {
	Clock    uint64
	Flags    uint32 // ClockTSCStable, ClockRealtime, ClockHostTSC
	Pad0     uint32
	Realtime uint64 // host CLOCK_REALTIME in ns when Clock was read, with ClockRealtime
	HostTSC  uint64 // host TSC when Clock was read, with ClockHostTSC
	Pad      [4]uint32
}

// Flags of ClockData.
const (
	ClockTSCStable = 1 << 1 // KVM_CLOCK_TSC_STABLE: the same on all vCPUs; get only
	ClockRealtime  = 1 << 2 // KVM_CLOCK_REALTIME; on set KVM adds the time passed since Realtime
	ClockHostTSC   = 1 << 3 // KVM_CLOCK_HOST_TSC; get only
)

// Clock returns the VM's kvmclock (KVM_GET_CLOCK).
func (vm *VM) Clock() (ClockData, error) {
	c, err := get[ClockData](&vm.fd, &reqGetClock)
	return c, explain(err, vm, CapAdjustClock)
}

// SetClock sets the VM's kvmclock (KVM_SET_CLOCK) to c.Clock, or with
// ClockRealtime in c.Flags, which CapAdjustClock must offer, to c.Clock plus
// the real time that has passed since c.Realtime. Other flags are EINVAL: mask
// those that Clock returned.
func (vm *VM) SetClock(c *ClockData) error {
	return explain(set(&vm.fd, &reqSetClock, c), vm, CapAdjustClock)
}

// KVMClockCtrl tells the guest, through its kvmclock page, that it was stopped
// by the host, so that it does not take the gap for a lockup
// (KVM_KVMCLOCK_CTRL). EINVAL means that the guest has no kvmclock on, which
// is no reason to worry.
func (v *VCPU) KVMClockCtrl() error {
	_, err := v.fd.call(&reqKVMClockCtrl, 0)
	return explain(err, v.vm, CapKVMClockCtrl)
}

// TSCKHz returns the frequency of the vCPU's TSC in kHz (KVM_GET_TSC_KHZ). The
// error is EIO when the host's TSC is unstable.
func (v *VCPU) TSCKHz() (uint32, error) { return tscKHz(&v.fd, v.vm, CapGetTSCKHz) }

// TSCKHz returns the frequency in kHz that new vCPUs get (KVM_GET_TSC_KHZ on
// the VM).
func (vm *VM) TSCKHz() (uint32, error) { return tscKHz(&vm.fd, vm, CapVMTSCControl) }

// SetTSCKHz sets the frequency of the vCPU's TSC in kHz (KVM_SET_TSC_KHZ).
// Without CapTSCControl KVM refuses one below the host's and takes one above it
// by pushing the TSC forward at every entry, which no guest should be given: a
// caller that moves a guest between hosts checks the capability first.
func (v *VCPU) SetTSCKHz(khz uint32) error { return setTSCKHz(&v.fd, v.vm, CapTSCControl, khz) }

// SetTSCKHz sets the frequency in kHz for vCPUs made afterwards
// (KVM_SET_TSC_KHZ on the VM). It needs CapVMTSCControl, and asks for it first:
// KVM takes any number on hosts that cannot honour it.
func (vm *VM) SetTSCKHz(khz uint32) error {
	if err := vm.Require(CapVMTSCControl); err != nil {
		return fmt.Errorf("%d kHz: %w", khz, err)
	}
	return setTSCKHz(&vm.fd, vm, CapVMTSCControl, khz)
}

func tscKHz(fd *fd, vm *VM, c Cap) (uint32, error) {
	n, err := fd.call(&reqGetTSCKHz, 0)
	return uint32(n), explain(err, vm, c)
}

func setTSCKHz(fd *fd, vm *VM, c Cap, khz uint32) error {
	if _, err := fd.call(&reqSetTSCKHz, uintptr(khz)); err != nil {
		return fmt.Errorf("%d kHz: %w", khz, explain(err, vm, c))
	}
	return nil
}
