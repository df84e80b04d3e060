package blk

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxIOV is the kernel's limit on one vectored call (UIO_MAXIOV).
const maxIOV = 1024

// vector calls preadv and pwritev with a list that is reused: that of
// unix.Preadv is garbage from nine buffers up.
type vector struct{ iov []unix.Iovec }

func (v *vector) preadv(fd int, bufs [][]byte, off int64) (int, error) {
	return v.call(unix.SYS_PREADV, fd, bufs, off)
}

func (v *vector) pwritev(fd int, bufs [][]byte, off int64) (int, error) {
	return v.call(unix.SYS_PWRITEV, fd, bufs, off)
}

// call moves what one call can. Preconditions: no buffer is empty.
func (v *vector) call(nr uintptr, fd int, bufs [][]byte, off int64) (int, error) {
	v.iov = v.iov[:0]
	for _, b := range bufs[:min(len(bufs), maxIOV)] {
		e := unix.Iovec{Base: unsafe.SliceData(b)}
		e.SetLen(len(b))
		v.iov = append(v.iov, e)
	}
	// SAFETY: the list is on the heap, reachable through v, and has as many
	// elements as we say; each Base is a real pointer to a buffer that bufs
	// keeps alive until the call has returned. On 64-bit kernels the offset is
	// whole in its first half.
	n, _, errno := unix.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v.iov))), uintptr(len(v.iov)), uintptr(off), 0, 0)
	clear(v.iov)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// aligned reports whether b begins at a multiple of align, a power of two.
func aligned(b []byte, align int) bool {
	// SAFETY: only the number is looked at.
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))&uintptr(align-1) == 0
}
