package guestproto

import "errors"

var (
	// ErrTooLarge is wrapped when a frame is longer than MaxMessage.
	ErrTooLarge = errors.New("agent message too large")
	// ErrInvalid is wrapped when a message has a field outside its limits, or
	// a stream header is malformed.
	ErrInvalid = errors.New("agent message invalid")
)

// JSON-RPC error codes that the guest answers with, beyond those of JSON-RPC
// 2.0 itself. The range is the one that JSON-RPC leaves to the implementation.
const (
	// CodeStart says that the program could not be started. The error's data
	// is a StartFailure.
	CodeStart = -32010
	// CodeNoProcess says that the named process is unknown or has exited.
	CodeNoProcess = -32011
	// CodeState says that the call does not fit the guest's state: Run a
	// second time, Thaw without Freeze.
	CodeState = -32012
	// CodeFailed says that the guest's kernel refused; the message says what.
	CodeFailed = -32013
)

// StartFailure is the data of a CodeStart error.
type StartFailure struct {
	// ExitCode is what a shell would return: 126 when the program exists but
	// cannot be executed, 127 when it does not exist, 125 for anything else.
	ExitCode int `json:"exit_code"`
}

// Validate checks a failure that came from the guest.
func (f StartFailure) Validate() error {
	if f.ExitCode < 125 || f.ExitCode > 127 {
		return invalid("exit_code %d, want 125 to 127", f.ExitCode)
	}
	return nil
}
