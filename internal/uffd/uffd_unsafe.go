package uffd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnavailable is wrapped when this host does not let this user have a
// userfaultfd of the kind that is needed.
var ErrUnavailable = errors.New("userfaultfd is not available")

// PageSize is the unit of everything here, in bytes.
const PageSize = 4096

// The requests, and what their arguments look like. All are _IOWR(0xaa, nr, size)
// but for the two of other directions.
const (
	reqNew        = 0xaa00     // _IO(0xaa, 0) of /dev/userfaultfd
	reqAPI        = 0xc018aa3f // struct uffdio_api
	reqRegister   = 0xc020aa00 // struct uffdio_register
	reqUnregister = 0x8010aa01 // _IOR, struct uffdio_range
	reqWake       = 0x8010aa02 // _IOR, struct uffdio_range
	reqCopy       = 0xc028aa03 // struct uffdio_copy

	apiVersion       = 0xaa
	featureShmem     = 1 << 5 // UFFD_FEATURE_MISSING_SHMEM
	registerMissing  = 1 << 0
	eventPagefault   = 0x12
	ioctlCopy        = 1 << 3
	messageSize      = 32
	messageFaultAddr = 16
	fdFlags          = unix.O_CLOEXEC | unix.O_NONBLOCK
)

type (
	apiArg      struct{ api, features, ioctls uint64 }
	rangeArg    struct{ start, len uint64 }
	registerArg struct {
		rangeArg
		mode, ioctls uint64
	}
	copyArg struct {
		dst, src, len, mode uint64
		copied              int64
	}
)

// Open makes a userfaultfd for faults of the kernel's, too: KVM's are. Errors wrap
// ErrUnavailable and say what to do.
func Open() (*os.File, error) {
	fd, err := open()
	if err != nil {
		return nil, err
	}
	a := apiArg{api: apiVersion, features: featureShmem}
	if err := ioctl(fd, reqAPI, unsafe.Pointer(&a)); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%w: this kernel has none for shared memory (Linux 4.11): %w", ErrUnavailable, err)
	}
	return os.NewFile(uintptr(fd), "userfaultfd"), nil
}

func open() (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, fdFlags, 0, 0)
	switch errno {
	case 0:
		return int(fd), nil
	case unix.ENOSYS:
		return -1, fmt.Errorf("%w: the kernel was built without CONFIG_USERFAULTFD", ErrUnavailable)
	case unix.EPERM:
	default:
		return -1, fmt.Errorf("%w: %w", ErrUnavailable, os.NewSyscallError("userfaultfd", errno))
	}
	dev, err := unix.Open("/dev/userfaultfd", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%w to this user: %w; be root, get access to /dev/userfaultfd (Linux 6.1), or set vm.unprivileged_userfaultfd=1%s",
			ErrUnavailable, &os.PathError{Op: "open", Path: "/dev/userfaultfd", Err: err}, sysctl())
	}
	defer unix.Close(dev)
	fd, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(dev), reqNew, fdFlags)
	if errno != 0 {
		return -1, fmt.Errorf("%w: /dev/userfaultfd: %w", ErrUnavailable, errno)
	}
	return int(fd), nil
}

// sysctl says what the setting is now, if that can be read.
func sysctl() string {
	b, err := os.ReadFile("/proc/sys/vm/unprivileged_userfaultfd")
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (it is %s)", strings.TrimSpace(string(b)))
}

// Register makes the missing pages of b, a mapping of a memfd, f's business. It
// returns b's address, for Copy in another process.
func Register(f *os.File, b []byte) (addr uint64, err error) {
	addr = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
	r := registerArg{rangeArg: rangeArg{addr, uint64(len(b))}, mode: registerMissing}
	if err := control(f, reqRegister, unsafe.Pointer(&r)); err != nil {
		return 0, fmt.Errorf("%w for guest memory: %w", ErrUnavailable, err)
	}
	if r.ioctls&ioctlCopy == 0 {
		return 0, fmt.Errorf("%w: the kernel cannot fill missing pages of this memory", ErrUnavailable)
	}
	return addr, nil
}

// Unregister ends that: what is missing then reads as zeroes.
func Unregister(f *os.File, addr, size uint64) error {
	r := rangeArg{addr, size}
	return control(f, reqUnregister, unsafe.Pointer(&r))
}

// Wake lets everybody who waits for a page of the range try again.
func Wake(f *os.File, addr, size uint64) error {
	r := rangeArg{addr, size}
	return control(f, reqWake, unsafe.Pointer(&r))
}

// Copy fills those of the pages at addr that are missing, in the process that made
// f, with b, and wakes who waits for them. b is whole pages and on the heap, as
// what is longer than 64 KiB or part of something on it is. The error is ESRCH
// when that process is gone.
func Copy(f *os.File, addr uint64, b []byte) error {
	for len(b) > 0 {
		c := copyArg{dst: addr, src: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), len: uint64(len(b))}
		// SAFETY: b is on the heap, where nothing moves, and is kept alive.
		err := control(f, reqCopy, unsafe.Pointer(&c))
		runtime.KeepAlive(b)
		n := max(c.copied, 0)
		switch {
		case err == nil && n == 0:
			return fmt.Errorf("UFFDIO_COPY filled nothing at %#x", addr)
		case errors.Is(err, unix.EEXIST):
			n = PageSize // it is there; who still waits for it is woken
			if werr := Wake(f, addr, PageSize); werr != nil {
				return werr
			}
		case errors.Is(err, unix.EAGAIN): // the process is changing its mappings; or some were filled
		case err != nil:
			return err
		}
		addr, b = addr+uint64(n), b[n:]
	}
	return nil
}

// ReadFault returns the address of a page that somebody waits for; ok is false
// when nobody does now.
func ReadFault(f *os.File) (addr uint64, ok bool, err error) {
	var m [messageSize]byte
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	var n int
	cerr := raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), m[:]) })
	switch {
	case cerr != nil:
		return 0, false, cerr
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, false, nil
	case err != nil:
		return 0, false, os.NewSyscallError("read", err)
	case n != messageSize || m[0] != eventPagefault:
		return 0, false, fmt.Errorf("userfaultfd: event %#x of %d bytes", m[0], n)
	}
	return binary.NativeEndian.Uint64(m[messageFaultAddr:]), true, nil
}

func control(f *os.File, req uintptr, arg unsafe.Pointer) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = ioctl(int(fd), req, arg) })
	return errors.Join(cerr, err)
}

func ioctl(fd int, req uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}
