package net

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxIovecs is the kernel's limit for one call (UIO_MAXIOV).
const maxIovecs = 1024

// fdFrames is Frames on a descriptor. Its list of iovecs is reused: that of
// unix.Readv is garbage from nine buffers up.
type fdFrames struct {
	fd  uintptr
	iov []unix.Iovec
}

func (f *fdFrames) set(bufs [][]byte) {
	f.iov = f.iov[:0]
	for _, b := range bufs {
		if len(b) == 0 {
			continue
		}
		v := unix.Iovec{Base: unsafe.SliceData(b)}
		v.SetLen(len(b))
		f.iov = append(f.iov, v)
	}
}

// Readv is readv(2).
func (f *fdFrames) Readv(bufs [][]byte) (int, error) { return f.call(unix.SYS_READV, bufs) }

// Writev is writev(2).
func (f *fdFrames) Writev(bufs [][]byte) (int, error) { return f.call(unix.SYS_WRITEV, bufs) }

func (f *fdFrames) call(nr uintptr, bufs [][]byte) (int, error) {
	f.set(bufs)
	if len(f.iov) == 0 || len(f.iov) > maxIovecs {
		return 0, unix.EINVAL
	}
	for {
		// SAFETY: f.iov is on the heap and has len(f.iov) elements; each Base
		// points to memory that bufs keeps alive until the call returns, and is
		// a real pointer in the Iovec, so the collector sees it.
		n, _, errno := unix.RawSyscall(nr, f.fd, uintptr(unsafe.Pointer(unsafe.SliceData(f.iov))), uintptr(len(f.iov)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
			continue
		}
		return 0, errno
	}
}
