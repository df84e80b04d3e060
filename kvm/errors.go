package kvm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrNotSupported is wrapped by every error whose reason is that the host's
// KVM lacks a feature. errors.As with a *CapError tells which.
var ErrNotSupported = errors.New("not supported by this host's KVM")

// ErrAPIVersion is wrapped by Open when the device does not speak KVM API
// version 12, the only stable one.
var ErrAPIVersion = errors.New("unknown KVM API version")

// CapError says which capability the host's KVM lacks. It wraps
// ErrNotSupported.
type CapError struct {
	Cap Cap
	Err error // the failed call, or nil when the capability was asked for up front
}

// Error implements error.
func (e *CapError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%v: %v: %v", e.Cap, ErrNotSupported, e.Err)
	}
	return fmt.Sprintf("%v: %v", e.Cap, ErrNotSupported)
}

// Unwrap returns ErrNotSupported and the failed call.
func (e *CapError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrNotSupported}
	}
	return []error{ErrNotSupported, e.Err}
}

// extender is what CheckExtension can be asked of: a System or a VM.
type extender interface {
	CheckExtension(Cap) (int, error)
}

// explain turns the failure of an ioctl that belongs to c into a *CapError
// when x says that c is missing, and leaves every other error alone. It costs
// nothing on success.
func explain(err error, x extender, c Cap) error {
	if err == nil || !mayMeanUnsupported(err) {
		return err
	}
	if v, cerr := x.CheckExtension(c); cerr != nil || v > 0 {
		return err
	}
	return &CapError{Cap: c, Err: err}
}

func mayMeanUnsupported(err error) bool {
	for _, e := range []unix.Errno{unix.EINVAL, unix.ENOTTY, unix.ENXIO, unix.EPERM, unix.ENODEV, unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
