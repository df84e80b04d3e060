package kvm

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FPU is struct kvm_fpu: x87 and SSE state. Saving and restoring is done with
// XSave, which holds a superset of it; SetFPU does not mark the state as in use,
// so an XSave that follows may report it as initial.
type FPU struct {
	FPR        [8][16]uint8
	FCW, FSW   uint16
	FTWX       uint8 // in FXSAVE format
	Pad1       uint8
	LastOpcode uint16
	LastIP     uint64
	LastDP     uint64
	XMM        [16][16]uint8
	MXCSR      uint32
	Pad2       uint32
}

// xsave is struct kvm_xsave without its flexible array.
type xsave struct {
	Region [1024]uint32
}

// XCR is struct kvm_xcr: one extended control register.
type XCR struct {
	XCR      uint32 // its number; 0 is XCR0, the only one KVM knows
	Reserved uint32
	Value    uint64
}

// XCRs is struct kvm_xcrs: the first NrXCRs entries of XCRs are valid.
type XCRs struct {
	NrXCRs  uint32
	Flags   uint32
	XCRs    [16]XCR
	Padding [16]uint64
}

// FPU returns the x87 and SSE state (KVM_GET_FPU).
func (v *VCPU) FPU() (FPU, error) { return get[FPU](&v.fd, &reqGetFPU) }

// SetFPU sets the x87 and SSE state (KVM_SET_FPU).
func (v *VCPU) SetFPU(f *FPU) error { return set(&v.fd, &reqSetFPU, f) }

// XCRs returns the extended control registers (KVM_GET_XCRS).
func (v *VCPU) XCRs() (XCRs, error) {
	x, err := get[XCRs](&v.fd, &reqGetXCRs)
	return x, explain(err, v.vm, CapXCRs)
}

// SetXCRs sets the extended control registers (KVM_SET_XCRS). CPUID must have
// been set before: KVM refuses bits of XCR0 that the guest's CPUID lacks.
func (v *VCPU) SetXCRs(x *XCRs) error {
	return explain(set(&v.fd, &reqSetXCRs, x), v.vm, CapXCRs)
}

// XSaveSize returns how many bytes of XSAVE area a vCPU of this VM has: 4096,
// or more when dynamically enabled features (AMX) were granted to the process
// with arch_prctl before.
func (vm *VM) XSaveSize() (int, error) {
	n, err := vm.CheckExtension(CapXSave2)
	if err != nil {
		return 0, err
	}
	return max(n, int(sizeOf[xsave]())), nil
}

// XSave returns the XSAVE area (KVM_GET_XSAVE2, or KVM_GET_XSAVE where that is
// missing), XSaveSize bytes in the layout of the host's CPUID leaf 0xd.
func (v *VCPU) XSave() ([]byte, error) {
	n, err := v.vm.CheckExtension(CapXSave2)
	if err != nil {
		return nil, err
	}
	req := &reqGetXSave2
	if n == 0 {
		req = &reqGetXSave
	}
	buf := make([]byte, max(n, int(sizeOf[xsave]())))
	if err := v.xsaveCall(req, buf); err != nil {
		return nil, err
	}
	return buf, nil
}

// SetXSave sets the XSAVE area (KVM_SET_XSAVE). len(p) must be XSaveSize: the
// kernel reads that many bytes.
func (v *VCPU) SetXSave(p []byte) error {
	n, err := v.vm.XSaveSize()
	if err != nil {
		return err
	}
	if len(p) != n {
		return fmt.Errorf("XSAVE area of %d bytes, this vCPU's has %d: %w", len(p), n, unix.EINVAL)
	}
	return v.xsaveCall(&reqSetXSave, p)
}

// xsaveCall makes an ioctl on a buffer that is at least XSaveSize bytes long.
func (v *VCPU) xsaveCall(r *request, p []byte) error {
	n, err := v.fd.acquire()
	if err != nil {
		return err
	}
	defer v.fd.release()
	for {
		// SAFETY: both callers made sure that p is as long as the kernel's
		// XSAVE area; the kernel copies bytes and asks for no alignment.
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(n), r.num, uintptr(unsafe.Pointer(&p[0])))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return os.NewSyscallError(r.name, errno)
		}
	}
}
