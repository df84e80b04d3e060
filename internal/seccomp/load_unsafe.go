package seccomp

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fprog is struct sock_fprog.
type fprog struct {
	len    uint16
	_      [6]byte
	filter uint64
}

// Load puts the calling thread, and what it starts, under the filter for good.
// The caller has locked the goroutine to the thread (runtime.LockOSThread) and
// execs soon after: this is the last thing to do before, as every system call
// from here on is filtered. When p.Notifies, listener is the descriptor that
// a supervisor answers on (seccomp_unotify(2)), close-on-exec; else it is -1.
//
// Preconditions: no_new_privs, or CAP_SYS_ADMIN in the user namespace; else
// ErrPrivileges.
func (p *Program) Load() (listener int, err error) { return p.load(0) }

// LoadAll puts every thread of the process, and what they start, under the filter
// for good. Preconditions are Load's; p does not notify.
func (p *Program) LoadAll() error {
	if p.Notifies() {
		return fmt.Errorf("%w: a filter for all threads cannot notify", ErrProfile)
	}
	// Not EAGAIN or the like, but the thread that could not follow.
	thread, err := p.load(unix.SECCOMP_FILTER_FLAG_TSYNC)
	if err == nil && thread > 0 {
		err = fmt.Errorf("seccomp: thread %d is under another filter", thread)
	}
	return err
}

// load is Load with further flags, and the kernel's answer for the listener.
func (p *Program) load(more uint32) (answer int, err error) {
	if len(p.Filter) == 0 || len(p.Filter)%insnSize != 0 || p.Len() > maxInstructions {
		return -1, fmt.Errorf("%w: a filter of %d bytes", ErrProfile, len(p.Filter))
	}
	// SAFETY: the filter is not empty, is pinned until the call has returned, and
	// has as many instructions as prog.len says; the kernel copies it.
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&p.Filter[0])
	prog := fprog{len: uint16(p.Len()), filter: uint64(uintptr(unsafe.Pointer(&p.Filter[0])))}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(p.Flags|more), uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(&prog)
	switch {
	case errno == 0 && (p.Notifies() || more != 0):
		return int(r), nil
	case errno == 0:
		return -1, nil
	case errors.Is(errno, unix.EACCES):
		return -1, fmt.Errorf("%w: %w", ErrPrivileges, errno)
	case errors.Is(errno, unix.ENOSYS):
		return -1, fmt.Errorf("%w: CONFIG_SECCOMP_FILTER is not set: %w", ErrUnsupported, errno)
	case errors.Is(errno, unix.EINVAL):
		return -1, fmt.Errorf("%w: it refuses the filter or its flags (%#x): %w", ErrUnsupported, p.Flags, errno)
	case errors.Is(errno, unix.EBUSY):
		return -1, fmt.Errorf("seccomp: a filter of this process has a listener already, and there can be one only: %w", errno)
	}
	return -1, os.NewSyscallError("seccomp", errno)
}
