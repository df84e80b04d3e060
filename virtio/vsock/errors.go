package vsock

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

var (
	// ErrPortInUse is wrapped by Listen when the port has a listener.
	ErrPortInUse = errors.New("vsock port is in use")
	// ErrTooMany is wrapped by Dial when the device has maxConns connections.
	ErrTooMany = errors.New("too many vsock connections")
	// ErrBridge is wrapped when the unix socket of a bridge cannot be made.
	ErrBridge = errors.New("vsock bridge refused")
	// ErrVhost is wrapped when the kernel's device cannot be had.
	ErrVhost = errors.New("no vhost-vsock")
)

const useUser = "use backend=user"

// explainVhost says what to do about an error of the kernel's device.
func explainVhost(err error, cid uint64) error {
	var hint string
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		hint = "this kernel has none; load it as root (modprobe vhost_vsock), or " + useUser
	case errors.Is(err, fs.ErrPermission):
		hint = "this user may not open it; run hvctl as root, or " + useUser
	case errors.Is(err, unix.EADDRINUSE):
		hint = fmt.Sprintf("CID %d belongs to another VM of this host; choose another cid, or %s", cid, useUser)
	default:
		hint = "it does not work here; " + useUser
	}
	return fmt.Errorf("%w: %s: %w", ErrVhost, hint, err)
}
