package kvm

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dirtyLog is struct kvm_dirty_log.
type dirtyLog struct {
	Slot        uint32
	Padding1    uint32
	DirtyBitmap uint64
}

// clearDirtyLog is struct kvm_clear_dirty_log.
type clearDirtyLog struct {
	Slot        uint32
	NumPages    uint32
	FirstPage   uint64
	DirtyBitmap uint64
}

// Arguments of CapManualDirtyLogProtect2.
const (
	DirtyLogManualProtect = 1 << 0 // KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
	DirtyLogInitiallySet  = 1 << 1 // KVM_DIRTY_LOG_INITIALLY_SET
)

// DirtyBitmapLen returns how many words a dirty bitmap of a slot of that many
// bytes has: bit n of word w stands for page 64*w+n.
func DirtyBitmapLen(sizeBytes uint64) int {
	return int((sizeBytes/4096 + 63) / 64)
}

// DirtyLog fills bitmap with the pages that the guest wrote in a slot since the
// last call (KVM_GET_DIRTY_LOG), and starts tracking them anew. With
// CapManualDirtyLogProtect2 enabled tracking restarts with ClearDirtyLog only.
//
// len(bitmap) must be DirtyBitmapLen of the slot's size: KVM writes that many
// words whatever the length is, so sizeBytes, the size of the slot, has to be
// right. Writes by this process to guest memory are not seen here, and pages
// that the guest only read may be: KVM maps a page writable, and counts it, at
// the first access.
func (vm *VM) DirtyLog(slot uint32, sizeBytes uint64, bitmap []uint64) error {
	if len(bitmap) < DirtyBitmapLen(sizeBytes) || len(bitmap) == 0 {
		return fmt.Errorf("memory slot %d: dirty bitmap of %d words, %#x bytes need %d: %w", slot, len(bitmap), sizeBytes, DirtyBitmapLen(sizeBytes), unix.EINVAL)
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	p := unsafe.SliceData(bitmap)
	pin.Pin(p)
	// SAFETY: pinned until the call has returned, and long enough for the slot
	// size that the caller vouches for.
	l := dirtyLog{Slot: slot, DirtyBitmap: uint64(uintptr(unsafe.Pointer(p)))}
	if err := set(&vm.fd, &reqGetDirtyLog, &l); err != nil {
		return fmt.Errorf("memory slot %d: %w", slot, err)
	}
	return nil
}

// ClearDirtyLog restarts tracking of the pages whose bits are set in bitmap,
// which stands for numPages pages from firstPage on (KVM_CLEAR_DIRTY_LOG).
// firstPage is a multiple of 64; numPages too, unless it ends with the slot. It
// needs CapManualDirtyLogProtect2 enabled.
func (vm *VM) ClearDirtyLog(slot uint32, firstPage uint64, numPages uint32, bitmap []uint64) error {
	if numPages == 0 || uint64(len(bitmap)) < (uint64(numPages)+63)/64 {
		return fmt.Errorf("memory slot %d: dirty bitmap of %d words for %d pages: %w", slot, len(bitmap), numPages, unix.EINVAL)
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	p := unsafe.SliceData(bitmap)
	pin.Pin(p)
	// SAFETY: pinned until the call has returned, and as long as NumPages says.
	l := clearDirtyLog{Slot: slot, NumPages: numPages, FirstPage: firstPage, DirtyBitmap: uint64(uintptr(unsafe.Pointer(p)))}
	if err := set(&vm.fd, &reqClearDirtyLog, &l); err != nil {
		return fmt.Errorf("memory slot %d: %w", slot, explain(err, vm, CapManualDirtyLogProtect2))
	}
	return nil
}
