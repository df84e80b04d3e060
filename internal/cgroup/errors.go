package cgroup

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotFound means the group does not exist (any more).
	ErrNotFound = errors.New("no such cgroup")
	// ErrInUse means the group has processes already.
	ErrInUse = errors.New("cgroup is in use")
	// ErrPath means a path that would lead out of the hierarchy, or is none.
	ErrPath = errors.New("bad cgroup path")
	// ErrNoController means a limit needs a controller that is not there.
	ErrNoController = errors.New("cgroup controller is not available")
	// ErrUnsupported means that this kind of hierarchy or kernel has no such
	// limit.
	ErrUnsupported = errors.New("not supported by this host's cgroups")
	// ErrValue means a limit that is out of range or contradicts another.
	ErrValue = errors.New("bad limit")
	// ErrNotMounted means there is no cgroup file system.
	ErrNotMounted = errors.New("no cgroup file system is mounted on " + mountPoint)
	// ErrPermission means that the caller may not make or change groups there.
	ErrPermission = errors.New("no permission to manage cgroups")
)

// valueError refuses what a field says.
func valueError(field, format string, a ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrValue, field, fmt.Sprintf(format, a...))
}

// unsupported refuses a field that this kind of hierarchy does not have.
func unsupported(field, why string) error {
	return fmt.Errorf("%w: %s: %s", ErrUnsupported, field, why)
}

// explain adds to what the kernel said about name what can be done about it.
func explain(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: %s: %w; be root, or have the parent group delegated to you", ErrPermission, name, err)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: %s: %w", ErrNotFound, name, err) // the directory was removed while it was open
	}
	return fmt.Errorf("cgroup %s: %w", name, err)
}

// gone tells that a file or its group does not exist.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}
