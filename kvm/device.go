package kvm

import (
	"fmt"
	"runtime"
	"unsafe"
)

// createDevice is struct kvm_create_device.
type createDevice struct {
	Type  uint32
	FD    uint32
	Flags uint32
}

// deviceAttr is struct kvm_device_attr.
type deviceAttr struct {
	Flags uint32
	Group uint32
	Attr  uint64
	Addr  uint64
}

// DeviceTypeVFIO is KVM_DEV_TYPE_VFIO, the one in-kernel device of x86.
const DeviceTypeVFIO = 4

const createDeviceTest = 1 // KVM_CREATE_DEVICE_TEST

// Device is an in-kernel device of a VM.
type Device struct {
	fd fd
}

// CreateDevice makes an in-kernel device (KVM_CREATE_DEVICE).
func (vm *VM) CreateDevice(kind uint32) (*Device, error) {
	c := createDevice{Type: kind}
	if err := set(&vm.fd, &reqCreateDevice, &c); err != nil {
		return nil, fmt.Errorf("device type %d: %w", kind, explain(err, vm, CapDeviceCtrl))
	}
	d := &Device{}
	d.fd.init(int(c.FD), fmt.Sprintf("kvm-device:%d", kind))
	return d, nil
}

// HasDeviceType reports whether CreateDevice knows a kind of device.
func (vm *VM) HasDeviceType(kind uint32) bool {
	c := createDevice{Type: kind, Flags: createDeviceTest}
	return set(&vm.fd, &reqCreateDevice, &c) == nil
}

// Close releases the device. It is idempotent.
func (d *Device) Close() error { return d.fd.close() }

// HasAttr reports whether the device has an attribute.
func (d *Device) HasAttr(group uint32, attr uint64) bool { return hasAttr(&d.fd, group, attr) }

// SetAttr sets an attribute whose value is a T (KVM_SET_DEVICE_ATTR). T is up
// to the attribute and holds no pointers.
func SetAttr[T any](d *Device, group uint32, attr uint64, value *T) error {
	return attrCall(&d.fd, &reqSetDeviceAttr, group, attr, value)
}

// GetAttr reads an attribute whose value is a T (KVM_GET_DEVICE_ATTR).
func GetAttr[T any](d *Device, group uint32, attr uint64) (value T, err error) {
	err = attrCall(&d.fd, &reqGetDeviceAttr, group, attr, &value)
	return value, err
}

func hasAttr(fd *fd, group uint32, attr uint64) bool {
	return set(fd, &reqHasDeviceAttr, &deviceAttr{Group: group, Attr: attr}) == nil
}

func attrCall[T any](fd *fd, r *request, group uint32, attr uint64, value *T) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(value)
	// SAFETY: pinned until the call has returned; the attribute's definition
	// says that its value is a T.
	a := deviceAttr{Group: group, Attr: attr, Addr: uint64(uintptr(unsafe.Pointer(value)))}
	if err := set(fd, r, &a); err != nil {
		return fmt.Errorf("attribute %d of group %d: %w", attr, group, err)
	}
	return nil
}

// Attributes of a vCPU: KVM_VCPU_TSC_CTRL and KVM_VCPU_TSC_OFFSET.
const (
	vcpuTSCCtrl   = 0
	vcpuTSCOffset = 0
)

// TSCOffset returns what is added to the host's TSC to give the guest's, with
// scaling applied before (KVM_VCPU_TSC_OFFSET). It needs CapVCPUAttributes.
func (v *VCPU) TSCOffset() (uint64, error) {
	var off uint64
	err := attrCall(&v.fd, &reqGetDeviceAttr, vcpuTSCCtrl, vcpuTSCOffset, &off)
	return off, explain(err, v.vm, CapVCPUAttributes)
}

// SetTSCOffset sets the TSC offset. Give all vCPUs the same one and their TSCs
// are in step. Some kernels take an offset and ignore it (the guest's TSC is
// protected, or not virtualized at all): that is an error wrapping
// ErrNotSupported too.
func (v *VCPU) SetTSCOffset(off uint64) error {
	if err := attrCall(&v.fd, &reqSetDeviceAttr, vcpuTSCCtrl, vcpuTSCOffset, &off); err != nil {
		return explain(err, v.vm, CapVCPUAttributes)
	}
	got, err := v.TSCOffset()
	if err == nil && got != off {
		err = fmt.Errorf("TSC offset %#x: %w: it stays at %#x", off, ErrNotSupported, got)
	}
	return err
}

// HasTSCOffset reports whether TSCOffset and SetTSCOffset work.
func (v *VCPU) HasTSCOffset() bool { return hasAttr(&v.fd, vcpuTSCCtrl, vcpuTSCOffset) }

// XCompGuestSupport returns the XCR0 bits that guests can be given, before any
// arch_prctl (KVM_X86_XCOMP_GUEST_SUPP). It needs CapSysAttributes.
func (s *System) XCompGuestSupport() (uint64, error) {
	var m uint64
	err := attrCall(&s.fd, &reqGetDeviceAttr, 0, 0, &m)
	return m, explain(err, s, CapSysAttributes)
}
