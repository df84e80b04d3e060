package eventfd

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These calls never block, and are made for each request of a guest. They are
// raw: an ordinary one tells Go's scheduler, which wakes its watching thread
// (sysmon) when the process was idle, and that costs more than all the rest.

// read takes the count.
func read(fd uintptr) (count uint64, errno syscall.Errno) {
	for {
		// SAFETY: count has the eight bytes that are said and outlives the call.
		_, _, errno = unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&count)), unsafe.Sizeof(count))
		if errno != unix.EINTR {
			return count, errno
		}
	}
}

// signal adds one to the count.
func signal(fd uintptr) (errno syscall.Errno) {
	one := uint64(1)
	for {
		// SAFETY: as in read.
		_, _, errno = unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
		if errno != unix.EINTR {
			return errno
		}
	}
}
