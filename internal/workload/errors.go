package workload

import "fmt"

// Exit codes of hvctl itself, as docker and podman have them.
const (
	ExitOwnFailure    = 125 // hvctl could not do what was asked
	ExitNotExecutable = 126 // the command exists but cannot be run
	ExitNotFound      = 127 // the command does not exist
)

// StartError is returned by Runtime.Start and Exec when the process could not
// be started for a reason that has its own exit code.
type StartError struct {
	Code int // ExitOwnFailure, ExitNotExecutable or ExitNotFound
	Err  error
}

// Error gives the reason alone; the code is for the exit status.
func (e *StartError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *StartError) Unwrap() error { return e.Err }

// SignalExitCode is the exit code of a process that sig ended.
func SignalExitCode(sig int) int { return 128 + sig }

// NotFoundError makes the StartError for a command that does not exist.
func NotFoundError(command string) *StartError {
	return &StartError{Code: ExitNotFound, Err: fmt.Errorf("command %q: not found in the instance", command)}
}
