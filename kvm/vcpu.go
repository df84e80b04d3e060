package kvm

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// VCPU is a virtual processor. Its methods belong to the one OS thread that
// created and runs it, except SetImmediateExit and Close (see the package
// documentation).
type VCPU struct {
	fd  fd
	vm  *VM
	id  int
	mem []byte   // the mapping of the vCPU: kvm_run, then the PIO data page
	run *runPage // the start of mem

	causes *causes // what Run serves itself; may be nil
}

// CreateVCPU makes the vCPU with the given id, which is also its initial APIC
// id (KVM_CREATE_VCPU). Call it on the thread that will run the vCPU. With an
// in-kernel irqchip, create that first. The error is EEXIST when the id is
// taken and EINVAL when it is above CapMaxVCPUID.
func (vm *VM) CreateVCPU(id int) (*VCPU, error) {
	n, err := vm.fd.call(&reqCreateVCPU, uintptr(id))
	if err != nil {
		return nil, fmt.Errorf("vCPU %d: %w", id, err)
	}
	v := &VCPU{vm: vm, id: id}
	v.fd.init(n, fmt.Sprintf("kvm-vcpu:%d", id))
	v.mem, err = unix.Mmap(n, 0, vm.mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = v.fd.close() // the mmap error is the one to tell
		return nil, fmt.Errorf("vCPU %d: %w", id, os.NewSyscallError("mmap", err))
	}
	// SAFETY: the mapping is page aligned, at least minRunMapping long
	// (NewSystem) and stays until the last call on this vCPU has returned.
	v.run = (*runPage)(unsafe.Pointer(&v.mem[0]))
	v.fd.fini = func() { _ = unix.Munmap(v.mem) } // fails only for a range that is not mapped
	return v, nil
}

// ID returns the id given to CreateVCPU.
func (v *VCPU) ID() int { return v.id }

// Close releases the vCPU and its mapping. Call it when the vCPU's thread has
// left its run loop. If a Run is under way it is asked to return, and the
// mapping goes when it does. It is idempotent.
func (v *VCPU) Close() error {
	v.SetImmediateExit(true)
	return v.fd.close()
}

// EnableCap switches on a capability of the vCPU (KVM_ENABLE_CAP, api.rst
// section 6).
func (v *VCPU) EnableCap(c Cap, args ...uint64) error {
	e, err := newEnableCap(c, args)
	if err != nil {
		return err
	}
	return explain(set(&v.fd, &reqEnableCap, e), v.vm, c)
}

// NMI queues a non-maskable interrupt (KVM_NMI).
func (v *VCPU) NMI() error {
	_, err := v.fd.call(&reqNMI, 0)
	return err
}

// interrupt is struct kvm_interrupt.
type interrupt struct {
	IRQ uint32
}

// Interrupt queues an external interrupt with the given vector
// (KVM_INTERRUPT). It is for VMs without an in-kernel local APIC: with one the
// error is ENXIO. EEXIST means that one is queued already.
func (v *VCPU) Interrupt(vector uint8) error {
	return set(&v.fd, &reqInterrupt, &interrupt{IRQ: uint32(vector)})
}

// SetupMCE gives the vCPU machine check banks (KVM_X86_SETUP_MCE): the low
// byte of mcgCap is their number, the rest a subset of MCECapSupported.
func (v *VCPU) SetupMCE(mcgCap uint64) error { return set(&v.fd, &reqSetupMCE, &mcgCap) }

// signalMaskHeader is struct kvm_signal_mask without its flexible array.
type signalMaskHeader struct {
	Len uint32
}

// signalMask is struct kvm_signal_mask with a sigset_t of the kernel's size.
type signalMask struct {
	signalMaskHeader
	Sigset [8]uint8
}

// SetSignalMask sets which signals are blocked while the guest runs
// (KVM_SET_SIGNAL_MASK): bit n-1 stands for signal n. The Go runtime's own
// signals should stay unblocked, or a stop-the-world waits for the next exit.
func (v *VCPU) SetSignalMask(mask uint64) error {
	m := signalMask{signalMaskHeader: signalMaskHeader{Len: 8}}
	for i := range m.Sigset {
		m.Sigset[i] = byte(mask >> (8 * i))
	}
	// The ioctl's number carries the header's size only; the kernel reads Len
	// bytes beyond it.
	return set(&v.fd, &reqSetSignalMask, &m)
}

// ClearSignalMask undoes SetSignalMask: the thread's own mask applies.
func (v *VCPU) ClearSignalMask() error {
	_, err := v.fd.call(&reqSetSignalMask, 0)
	return err
}

// Translation is struct kvm_translation.
type Translation struct {
	LinearAddress   uint64
	PhysicalAddress uint64
	Valid           uint8
	Writeable       uint8 // KVM always says 1
	Usermode        uint8 // KVM always says 0
	Pad             [5]uint8
}

// Translate walks the guest's page tables for a linear address as the vCPU
// would now (KVM_TRANSLATE); ok is false when it is not mapped.
func (v *VCPU) Translate(linear uint64) (gpa uint64, ok bool, err error) {
	t := Translation{LinearAddress: linear}
	if _, err := callPtr(&v.fd, &reqTranslate, &t); err != nil {
		return 0, false, err
	}
	return t.PhysicalAddress, t.Valid != 0, nil
}

// PreFaultMemory is struct kvm_pre_fault_memory (Linux 6.11, api.rst 4.143).
type PreFaultMemory struct {
	GPA     uint64
	Size    uint64
	Flags   uint64
	Padding [5]uint64
}

// PreFault populates the second-stage page tables for size bytes at gpa, as
// reads by the guest would (KVM_PRE_FAULT_MEMORY). Both are multiples of the
// page size. It needs CapPreFaultMemory.
func (v *VCPU) PreFault(gpa, size uint64) error {
	p := PreFaultMemory{GPA: gpa, Size: size}
	for p.Size > 0 {
		before := p.Size
		// The kernel advances p by what it has done, also when it fails.
		if err := set(&v.fd, &reqPreFaultMemory, &p); err != nil {
			return fmt.Errorf("at %#x: %w", p.GPA, explain(err, v.vm, CapPreFaultMemory))
		}
		if p.Size == before {
			return fmt.Errorf("KVM_PRE_FAULT_MEMORY made no progress at %#x", p.GPA)
		}
	}
	return nil
}
