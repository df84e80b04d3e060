package stage

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setGroups is setgroups(2) for the calling thread; package syscall's would
// stop every thread to do the same to it.
func setGroups(gids []uint32) error {
	var first unsafe.Pointer
	if len(gids) > 0 {
		first = unsafe.Pointer(&gids[0])
	}
	// SAFETY: the kernel reads len(gids) 32-bit words during the call.
	if _, _, e := unix.Syscall(unix.SYS_SETGROUPS, uintptr(len(gids)), uintptr(first), 0); e != 0 {
		return e
	}
	return nil
}
