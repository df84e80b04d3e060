package memory

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reserve returns n bytes of addresses that begin at a multiple of HugePageSize
// and hold nothing yet: huge pages can be mapped there, in our page tables and
// in those that KVM makes after them.
func reserve(n uint64) ([]byte, error) {
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(n+HugePageSize), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d MiB for guest RAM: %w", n>>20, os.NewSyscallError("mmap", err))
	}
	all := unsafe.Slice((*byte)(p), n+HugePageSize) // SAFETY: just what was mapped
	head := (HugePageSize - uint64(uintptr(p))%HugePageSize) % HugePageSize
	mem := all[head : head+n : head+n]
	if head > 0 {
		_ = unmap(all[:head]) // failing costs addresses only
	}
	_ = unmap(all[head+n:])
	return mem, nil
}

// mapAt maps a file's bytes over part of a reservation, with access PROT_*.
func mapAt(mem []byte, fd int, off int64, access, flags int) error {
	// SAFETY: the mapping replaces mem, which is part of a reservation of ours,
	// and nothing else.
	_, err := unix.MmapPtr(fd, off, unsafe.Pointer(&mem[0]), uintptr(len(mem)), access, flags|unix.MAP_FIXED)
	return os.NewSyscallError("mmap", err)
}

// unmap ends what reserve and mapAt began.
func unmap(mem []byte) error {
	// SAFETY: mem is part of a reservation of ours.
	return os.NewSyscallError("munmap", unix.MunmapPtr(unsafe.Pointer(&mem[0]), uintptr(len(mem))))
}
