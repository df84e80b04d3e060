package vsock

import "errors"

var (
	// ErrPortInUse is wrapped by Listen when the port has a listener.
	ErrPortInUse = errors.New("vsock port is in use")
	// ErrTooMany is wrapped by Dial when the device has maxConns connections.
	ErrTooMany = errors.New("too many vsock connections")
	// ErrBridge is wrapped when the unix socket of a bridge cannot be made.
	ErrBridge = errors.New("vsock bridge refused")
)
