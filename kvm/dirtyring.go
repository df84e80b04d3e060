package kvm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dirtyGFN is struct kvm_dirty_gfn: one page that the guest wrote.
type dirtyGFN struct {
	Flags  uint32
	Slot   uint32 // memory slot in the low half, address space (SMM) in the high half
	Offset uint64 // page number within the slot
}

const (
	dirtyGFNDirty = 1 << 0 // KVM_DIRTY_GFN_F_DIRTY
	dirtyGFNReset = 1 << 1 // KVM_DIRTY_GFN_F_RESET

	dirtyLogPageOffset = 64 // KVM_DIRTY_LOG_PAGE_OFFSET
)

// EnableDirtyRing makes the VM report dirty pages in one ring per vCPU instead
// of bitmaps. sizeBytes is a power of two of at least a page and at most what
// CheckExtension says of CapDirtyLogRing. Call it before the first vCPU is made;
// DirtyLog does not work afterwards. The host keeps some entries in reserve, so
// ExitDirtyRingFull comes before the ring is full.
func (vm *VM) EnableDirtyRing(sizeBytes uint32) error {
	// x86 is strongly ordered, so both spellings mean the same there.
	err := vm.EnableCap(CapDirtyLogRingAcqRel, uint64(sizeBytes))
	if errors.Is(err, ErrNotSupported) {
		err = vm.EnableCap(CapDirtyLogRing, uint64(sizeBytes))
	}
	if err != nil {
		return fmt.Errorf("dirty ring of %d bytes: %w", sizeBytes, err)
	}
	return nil
}

// ResetDirtyRings starts tracking anew for every page that was harvested from
// any ring of the VM (KVM_RESET_DIRTY_RINGS), and returns how many those were.
// Call it after Harvest and before reading the pages: a write that comes after
// it is reported again. No Harvest may run at the same time.
//
// Since Linux 6.16 the ioctl stops early when a signal is pending, with fewer
// pages reset than were harvested, and the next write to one left out would be
// lost. So it is made with all signals blocked, and again until all are done.
func (vm *VM) ResetDirtyRings() (int, error) {
	want := vm.harvested.Load()
	var done int64
	err := withSignalsBlocked(func() error {
		for idle := 0; ; {
			n, err := vm.fd.call(&reqResetDirtyRings, 0)
			if err != nil {
				return explain(err, vm, CapDirtyLogRing)
			}
			done += int64(n)
			if done >= want {
				return nil
			}
			if n > 0 {
				idle = 0
			} else if idle++; idle == 100 {
				return fmt.Errorf("KVM_RESET_DIRTY_RINGS: no progress at %d of %d harvested pages", done, want)
			}
		}
	})
	vm.harvested.Add(-done)
	return int(done), err
}

// withSignalsBlocked calls fn on a thread that takes no signals meanwhile. fn
// must be short: the Go runtime cannot preempt it.
func withSignalsBlocked(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return os.NewSyscallError("rt_sigprocmask", err)
	}
	err := fn()
	if merr := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err == nil {
		err = os.NewSyscallError("rt_sigprocmask", merr)
	}
	return err
}

// DirtyRing is the mapping of one vCPU's dirty ring. One goroutine at a time
// may use it; the vCPU may run meanwhile.
type DirtyRing struct {
	vm   *VM
	mem  []byte
	ring []dirtyGFN
	next int
}

// MapDirtyRing maps the vCPU's ring; sizeBytes is what EnableDirtyRing was
// given. It may be called from any goroutine.
func (v *VCPU) MapDirtyRing(sizeBytes uint32) (*DirtyRing, error) {
	n, err := v.fd.acquire()
	if err != nil {
		return nil, err
	}
	defer v.fd.release()
	count := int(uintptr(sizeBytes) / sizeOf[dirtyGFN]())
	if count == 0 {
		return nil, fmt.Errorf("dirty ring of %d bytes: %w", sizeBytes, unix.EINVAL)
	}
	mem, err := unix.Mmap(n, int64(dirtyLogPageOffset*os.Getpagesize()), int(sizeBytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("dirty ring of vCPU %d: %w", v.id, os.NewSyscallError("mmap", err))
	}
	return &DirtyRing{
		vm: v.vm, mem: mem,
		// SAFETY: the mapping is page aligned and has room for count entries;
		// ring is not used after Close.
		ring: unsafe.Slice((*dirtyGFN)(unsafe.Pointer(&mem[0])), count),
	}, nil
}

// Harvest calls fn for every page that the vCPU has written since the last
// call, and returns how many there were. The entries are free again only after
// ResetDirtyRings. The guest may go on writing.
func (r *DirtyRing) Harvest(fn func(slot uint32, page uint64)) int {
	n := 0
	for ; n < len(r.ring); n++ {
		e := &r.ring[r.next]
		// The kernel publishes slot and offset before the flag, and takes the
		// entry back when it sees the other one.
		if atomic.LoadUint32(&e.Flags)&(dirtyGFNDirty|dirtyGFNReset) != dirtyGFNDirty {
			break
		}
		fn(e.Slot, e.Offset)
		atomic.StoreUint32(&e.Flags, dirtyGFNDirty|dirtyGFNReset)
		r.vm.harvested.Add(1)
		if r.next++; r.next == len(r.ring) {
			r.next = 0
		}
	}
	return n
}

// Close unmaps the ring. It is idempotent.
func (r *DirtyRing) Close() error {
	if r.mem == nil {
		return nil
	}
	mem := r.mem
	r.mem, r.ring = nil, nil
	return os.NewSyscallError("munmap", unix.Munmap(mem))
}
