package kvm

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// VM is a virtual machine: memory slots, interrupt controllers and the vCPUs
// made from it. Its methods may be called from any goroutine, concurrently.
type VM struct {
	fd       fd
	mmapSize int

	// harvested counts dirty ring entries that were collected and not yet
	// given back with ResetDirtyRings.
	harvested atomic.Int64
}

// Close releases the VM. The kernel keeps it until its vCPUs and devices are
// closed too. It is idempotent.
func (vm *VM) Close() error { return vm.fd.close() }

// CheckExtension returns what KVM says of a capability for this VM.
func (vm *VM) CheckExtension(c Cap) (int, error) {
	return vm.fd.call(&reqCheckExtension, uintptr(c))
}

// Require returns nil when KVM has every capability for this VM, else a
// *CapError naming the first that it lacks.
func (vm *VM) Require(caps ...Cap) error { return require(vm, caps) }

// Caps takes a snapshot of all capabilities that this package knows.
func (vm *VM) Caps() (Caps, error) { return snapshotCaps(vm) }

// enableCap is struct kvm_enable_cap.
type enableCap struct {
	Cap   uint32
	Flags uint32
	Args  [4]uint64
	Pad   [64]uint8
}

func newEnableCap(c Cap, args []uint64) (*enableCap, error) {
	e := &enableCap{Cap: uint32(c)}
	if len(args) > len(e.Args) {
		return nil, fmt.Errorf("%v: %d arguments, at most %d can be given", c, len(args), len(e.Args))
	}
	copy(e.Args[:], args)
	return e, nil
}

// EnableCap switches on a capability of the VM (KVM_ENABLE_CAP). Which
// arguments there are, and whether vCPUs may exist already, is up to the
// capability (api.rst section 7).
func (vm *VM) EnableCap(c Cap, args ...uint64) error {
	e, err := newEnableCap(c, args)
	if err != nil {
		return err
	}
	return explain(set(&vm.fd, &reqEnableCap, e), vm, c)
}

// UserMemoryRegion is struct kvm_userspace_memory_region.
type UserMemoryRegion struct {
	Slot          uint32
	Flags         uint32 // MemLogDirtyPages, MemReadonly
	GuestPhysAddr uint64
	MemorySize    uint64 // bytes; 0 deletes the slot
	UserspaceAddr uint64
}

// Flags of a memory slot.
const (
	// MemLogDirtyPages is KVM_MEM_LOG_DIRTY_PAGES: track guest writes.
	MemLogDirtyPages = 1 << 0
	// MemReadonly is KVM_MEM_READONLY: guest writes are MMIO exits. It needs
	// CapReadonlyMem.
	MemReadonly = 1 << 1
	// MemGuestMemfd is KVM_MEM_GUEST_MEMFD, only for
	// KVM_SET_USER_MEMORY_REGION2 (Linux 6.8, api.rst 4.140).
	MemGuestMemfd = 1 << 2
)

// SetMemorySlot puts mem at guest physical address gpa as slot number slot, or
// changes the flags or the address of a slot that is there
// (KVM_SET_USER_MEMORY_REGION). Address, length and gpa must be multiples of
// the page size.
//
// mem must be memory from mmap, not from the Go heap. KVM keeps using it after
// this call: the caller unmaps it only after the slot was deleted or the VM and
// all its vCPUs were closed. The error is EEXIST when the range meets another
// slot, EINVAL for bad alignment or a change that KVM does not allow.
func (vm *VM) SetMemorySlot(slot, flags uint32, gpa uint64, mem []byte) error {
	if len(mem) == 0 {
		return fmt.Errorf("memory slot %d at %#x is empty", slot, gpa)
	}
	return vm.SetUserMemoryRegion(&UserMemoryRegion{
		Slot:          slot,
		Flags:         flags,
		GuestPhysAddr: gpa,
		MemorySize:    uint64(len(mem)),
		// SAFETY: only the number is kept, and by the kernel; mem is mapped
		// memory, which does not move, and its owner keeps it mapped.
		UserspaceAddr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))),
	})
}

// DeleteMemorySlot removes a slot: guest accesses to it become MMIO exits.
// When it returns KVM no longer uses the memory.
func (vm *VM) DeleteMemorySlot(slot uint32) error {
	return vm.SetUserMemoryRegion(&UserMemoryRegion{Slot: slot})
}

// SetUserMemoryRegion is KVM_SET_USER_MEMORY_REGION as it is; most callers want
// SetMemorySlot.
func (vm *VM) SetUserMemoryRegion(r *UserMemoryRegion) error {
	err := set(&vm.fd, &reqSetUserMemoryRegion, r)
	if err != nil && r.Flags&MemReadonly != 0 {
		err = explain(err, vm, CapReadonlyMem)
	}
	if err != nil {
		return fmt.Errorf("memory slot %d at %#x, %#x bytes: %w", r.Slot, r.GuestPhysAddr, r.MemorySize, err)
	}
	return nil
}

// SetTSSAddr gives KVM three pages of guest physical address space, below
// 4 GiB and in no memory slot, for the task state segment that Intel hosts
// need to run real mode (KVM_SET_TSS_ADDR). Call it before the first vCPU runs.
func (vm *VM) SetTSSAddr(gpa uint64) error {
	_, err := vm.fd.call(&reqSetTSSAddr, uintptr(gpa))
	return err
}

// SetIdentityMapAddr gives KVM one page of guest physical address space, below
// 4 GiB and in no memory slot, for the page table that Intel hosts need while
// the guest has paging off (KVM_SET_IDENTITY_MAP_ADDR). Call it before the
// first vCPU is created: EINVAL afterwards.
func (vm *VM) SetIdentityMapAddr(gpa uint64) error {
	return set(&vm.fd, &reqSetIdentityMapAddr, &gpa)
}

// SetBootCPUID says which vCPU id is the bootstrap processor (default 0). Call
// it before the first vCPU is created.
func (vm *VM) SetBootCPUID(id int) error {
	_, err := vm.fd.call(&reqSetBootCPUID, uintptr(id))
	return explain(err, vm, CapSetBootCPUID)
}
