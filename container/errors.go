package container

import (
	"errors"
	"strings"
)

// The wording of the first ones is what engines look for in messages.
var (
	// ErrNotExist means that no container has that ID.
	ErrNotExist = errors.New("container does not exist")
	// ErrExist means that the ID is taken.
	ErrExist = errors.New("container with given ID already exists")
	// ErrNotRunning means that there is no process to act upon.
	ErrNotRunning = errors.New("container not running")
	// ErrState means that the step is not legal in the container's state.
	ErrState = errors.New("not possible in this state")
	// ErrInvalidID means that an ID breaks the rule.
	ErrInvalidID = errors.New("invalid container ID format")
	// ErrConfig means that the configuration is wrong; the message lists each
	// field with the reason.
	ErrConfig = errors.New("config.json")
	// ErrNoCgroup means that the step needs a cgroup and the container has none.
	ErrNoCgroup = errors.New("the container has no cgroup")
)

// FieldError is one mistake in a configuration.
type FieldError struct {
	Field  string // "process.args[0]"
	Reason string
}

// Error implements error.
func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// configError is every mistake found; it wraps ErrConfig.
type configError []error

func (e configError) Error() string {
	s := make([]string, len(e))
	for i, err := range e {
		s[i] = err.Error()
	}
	return ErrConfig.Error() + ": " + strings.Join(s, "; ")
}

func (e configError) Unwrap() []error { return append([]error{ErrConfig}, e...) }
