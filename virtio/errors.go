package virtio

import (
	"errors"
	"fmt"
)

var (
	// ErrGuest is wrapped by every error that is the driver's fault. Returned
	// from HandleQueue, Activate or a goroutine of Env.Go it stops the device
	// with DEVICE_NEEDS_RESET; the machine goes on.
	ErrGuest = errors.New("driver broke the virtio protocol")
	// ErrState is wrapped when saved state is refused.
	ErrState = errors.New("virtio state refused")
	// ErrPanic is wrapped by the error that fails the machine after a panic in
	// a device's code.
	ErrPanic = errors.New("panic in a virtio device")
	// ErrArgs is wrapped when a device's options are refused.
	ErrArgs = errors.New("device options refused")
	// ErrBusy is wrapped when state is saved or loaded while workers run, or
	// when a device kept chains over a pause.
	ErrBusy = errors.New("virtio device is busy")
)

// GuestErrorf makes an error that wraps ErrGuest. Arguments with %w are
// wrapped too.
func GuestErrorf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrGuest, fmt.Errorf(format, args...))
}
