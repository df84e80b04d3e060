package kvm

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// request is one ioctl: its number, its C name and what EINTR means for it.
type request struct {
	num   uintptr
	name  string
	eintr eintrPolicy
	// brief is an ioctl that returns at once and is made often: the scheduler is
	// not told of it, which would wake a thread that watches over it.
	brief bool
}

type eintrPolicy uint8

const (
	eintrRetry  eintrPolicy = iota // call again: the kernel has done nothing yet
	eintrReturn                    // the caller wants to see it
)

// Encoding of ioctl numbers, include/uapi/asm-generic/ioctl.h. The argument's
// size is part of the number, so it is taken from the Go type: a mirror of the
// wrong size is a wrong number, which the kernel and the golden test refuse.
const (
	kvmio = 0xae

	iocWrite = 1
	iocRead  = 2

	iocNRShift   = 0
	iocTypeShift = 8
	iocSizeShift = 16
	iocDirShift  = 30
)

func ioc(dir, nr, size uintptr, name string) request {
	return request{
		num:  dir<<iocDirShift | size<<iocSizeShift | kvmio<<iocTypeShift | nr<<iocNRShift,
		name: name,
	}
}

func sizeOf[T any]() uintptr {
	var t T
	return unsafe.Sizeof(t) // SAFETY: a constant; nothing is dereferenced
}

func ion(nr uintptr, name string) request        { return ioc(0, nr, 0, name) }
func ior[T any](nr uintptr, name string) request { return ioc(iocRead, nr, sizeOf[T](), name) }
func iow[T any](nr uintptr, name string) request { return ioc(iocWrite, nr, sizeOf[T](), name) }
func iowr[T any](nr uintptr, name string) request {
	return ioc(iocRead|iocWrite, nr, sizeOf[T](), name)
}
func (r request) returning(p eintrPolicy) request { r.eintr = p; return r }
func (r request) briefly() request                { r.brief = true; return r }

// call makes an ioctl whose argument is a number. It returns the ioctl's
// result, which is not negative.
func (f *fd) call(r *request, arg uintptr) (int, error) {
	n, err := f.acquire()
	if err != nil {
		return 0, err
	}
	defer f.release()
	for {
		ret, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(n), r.num, arg)
		if errno == 0 {
			return int(ret), nil
		}
		if errno != unix.EINTR || r.eintr != eintrRetry {
			return 0, os.NewSyscallError(r.name, errno)
		}
	}
}

// callPtr makes an ioctl whose argument is a structure. The structure must
// hold no Go pointers; addresses in it are numbers of pinned or mapped memory.
func callPtr[T any](f *fd, r *request, p *T) (int, error) {
	n, err := f.acquire()
	if err != nil {
		return 0, err
	}
	defer f.release()
	for {
		// SAFETY: each conversion stands in the call expression of a function
		// in assembly, so *p is kept alive and in place until it returns. The
		// kernel accesses as many bytes as r says, at most the size of what p
		// points into: T itself, or a fam whose header is T.
		var ret uintptr
		var errno unix.Errno
		if r.brief {
			ret, _, errno = unix.RawSyscall(unix.SYS_IOCTL, uintptr(n), r.num, uintptr(unsafe.Pointer(p)))
		} else {
			ret, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(n), r.num, uintptr(unsafe.Pointer(p)))
		}
		if errno == 0 {
			return int(ret), nil
		}
		if errno != unix.EINTR || r.eintr != eintrRetry {
			return 0, os.NewSyscallError(r.name, errno)
		}
	}
}

// get makes an ioctl that fills a structure.
func get[T any](f *fd, r *request) (t T, err error) {
	_, err = callPtr(f, r, &t)
	return t, err
}

// set makes an ioctl that reads a structure.
func set[T any](f *fd, r *request, t *T) error {
	_, err := callPtr(f, r, t)
	return err
}

// fam is a C structure with a flexible array member: a header H followed by n
// elements E, in one allocation. Neither type may hold pointers.
type fam[H, E any] struct {
	buf []uint64 // for its alignment
	n   int
}

func newFAM[H, E any](n int) fam[H, E] {
	size := sizeOf[H]() + uintptr(n)*sizeOf[E]()
	return fam[H, E]{buf: make([]uint64, max(1, (size+7)/8)), n: n}
}

func (f fam[H, E]) header() *H {
	// SAFETY: buf holds at least a header (newFAM) and is 8-byte aligned, as
	// much as any type of this package needs.
	return (*H)(unsafe.Pointer(&f.buf[0]))
}

func (f fam[H, E]) entries() []E {
	if f.n == 0 {
		return nil
	}
	// SAFETY: newFAM made room for n elements after the header, and C's layout
	// puts the array right there because the header's size is a multiple of
	// the element's alignment (checked by the golden test).
	return unsafe.Slice((*E)(unsafe.Add(unsafe.Pointer(&f.buf[0]), sizeOf[H]())), f.n)
}
