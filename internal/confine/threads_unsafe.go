package confine

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// everyThread makes a system call on every thread of the process.
func everyThread(name string, call, a, b, c uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(call, a, b, c, 0, 0, 0); errno != 0 {
		return os.NewSyscallError(name, errno)
	}
	return nil
}

// capabilities are the permitted ones of the calling thread, as all have them.
func capabilities() (uint64, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&hdr, &caps[0]); err != nil {
		return 0, os.NewSyscallError("capget", err)
	}
	return uint64(caps[1].Permitted)<<32 | uint64(caps[0].Permitted), nil
}

// capsetArgs are the arguments of capset(2), which the kernel only reads.
type capsetArgs struct {
	hdr  unix.CapUserHeader
	caps [2]unix.CapUserData
}

// setCapabilities makes set the effective and the permitted ones, and leaves none
// to inherit.
func setCapabilities(set uint64) error {
	a := new(capsetArgs)
	a.hdr.Version = unix.LINUX_CAPABILITY_VERSION_3
	for i := range a.caps {
		half := uint32(set >> (32 * i))
		a.caps[i] = unix.CapUserData{Effective: half, Permitted: half}
	}
	// SAFETY: a lives on the heap, where nothing moves, until all threads have made
	// the call: KeepAlive follows it.
	err := everyThread("capset", unix.SYS_CAPSET, uintptr(unsafe.Pointer(&a.hdr)), uintptr(unsafe.Pointer(&a.caps)), 0)
	runtime.KeepAlive(a)
	return err
}
