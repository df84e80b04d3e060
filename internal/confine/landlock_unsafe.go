package confine

import (
	"encoding/binary"
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// landlockVersion asks for the version of the interface.
func landlockVersion() (int, error) {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case errno == 0:
		return int(v), nil
	case errors.Is(errno, unix.ENOSYS), errors.Is(errno, unix.EOPNOTSUPP), errors.Is(errno, unix.EPERM):
		return 0, errNoLandlock
	}
	return 0, os.NewSyscallError("landlock_create_ruleset", errno)
}

// newRuleset makes a ruleset that forbids what is handled.
func newRuleset(handled Access) (int, error) {
	attr := uint64(handled) // struct landlock_ruleset_attr as it was first
	// SAFETY: attr has the size that is given, and lives over the call.
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return -1, os.NewSyscallError("landlock_create_ruleset", errno)
	}
	return int(fd), nil // close-on-exec, always
}

// landlockAdd allows access below what fd names.
func landlockAdd(set, fd int, access Access) error {
	var attr [12]byte // struct landlock_path_beneath_attr is packed
	binary.NativeEndian.PutUint64(attr[:], uint64(access))
	binary.NativeEndian.PutUint32(attr[8:], uint32(fd))
	// SAFETY: attr is as long as the kernel's struct, and lives over the call.
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(set), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_add_rule", errno)
	}
	return nil
}
