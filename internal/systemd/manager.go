package systemd

import (
	"context"
	"errors"
)

var (
	// ErrMissing means that there is no systemd to speak to.
	ErrMissing = errors.New("systemd cannot be reached")
	// ErrPath means that a linux.cgroupsPath names no scope.
	ErrPath = errors.New("linux.cgroupsPath")
	// ErrNoUnit means that systemd has no such unit, or no longer.
	ErrNoUnit = errors.New("no such unit")
	// ErrExist means that a unit of that name lives.
	ErrExist = errors.New("the unit exists already")
)

// Manager is a systemd: the system's, or a user's. Units are named in full
// ("x.scope"). Methods bound how long they wait.
type Manager interface {
	// User says whether it is a user's.
	User() bool
	// Start makes a scope with the properties, among them the processes that it
	// begins with. The error wraps ErrExist.
	Start(ctx context.Context, unit string, props []Property) error
	// Set changes properties of a unit until it ends.
	Set(ctx context.Context, unit string, props []Property) error
	// Stop ends a unit, and forgets that it failed. One that is not there is no
	// error.
	Stop(ctx context.Context, unit string) error
	// Find returns the path of a unit's cgroup, below the mount point, and its
	// description. The error wraps ErrNoUnit.
	Find(ctx context.Context, unit string) (group, description string, err error)
}
