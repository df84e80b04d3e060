package vhost

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func sizeOf[T any]() uintptr {
	var t T
	return unsafe.Sizeof(t) // SAFETY: a constant; nothing is dereferenced
}

// ioctl makes a call whose argument is *p, or nothing when p is nil. The
// structure must hold no Go pointers; addresses in it are numbers of memory
// that is mapped for as long as the kernel uses it. After the file's Close the
// error wraps os.ErrClosed, and no call is made with a number that is somebody
// else's by now.
func ioctl[T any](f *os.File, r *request, p *T) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	err = conn.Control(func(fd uintptr) {
		for {
			// SAFETY: the conversion stands in the call expression of a
			// function in assembly, so *p is kept alive and in place until it
			// returns. The kernel accesses as many bytes as r's number says,
			// and of VHOST_SET_MEM_TABLE as many regions as the header counts,
			// at most the size of T.
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, r.num, uintptr(unsafe.Pointer(p)))
			if errno != unix.EINTR {
				return
			}
		}
	})
	switch {
	case err != nil: // the only way for Control to fail
		return fmt.Errorf("%s: %w", r.name, os.ErrClosed)
	case errno != 0:
		return os.NewSyscallError(r.name, errno)
	}
	return nil
}
