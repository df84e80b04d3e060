package agent

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/creachadair/jrpc2"

	"github.com/hvctl/hvctl/internal/guestproto"
)

var (
	// ErrGuest is wrapped when the guest broke the protocol. The control
	// connection is closed; the guest may open another.
	ErrGuest = errors.New("guest agent broke the protocol")
	// ErrNoProcess is wrapped when the process is unknown to the guest or has
	// exited.
	ErrNoProcess = errors.New("no such process in the guest")
	// ErrState is wrapped when the guest says that the call does not fit its
	// state.
	ErrState = errors.New("not possible in the guest's state")
	// ErrFailed is wrapped when the guest could not do what was asked.
	ErrFailed = errors.New("guest agent")
	// ErrUnknown is wrapped when the guest's agent, of an earlier build, does not know
	// what is asked of it.
	ErrUnknown = errors.New("the guest's agent, of the build that booted it, cannot do that")
	// ErrDisconnected is wrapped when the control connection broke before the
	// guest answered; whether it did what was asked is not known.
	ErrDisconnected = errors.New("connection to the guest agent lost")
	// ErrClosed is wrapped when the Session has ended.
	ErrClosed = errors.New("guest agent session has ended")
)

// StartError says that a program could not be started in the guest.
type StartError struct {
	// ExitCode is what `hvctl run` and `hvctl exec` exit with: 125, 126 or 127.
	ExitCode int
	// Message is the guest's reason, cleaned for printing.
	Message string
}

// Error returns the guest's reason.
func (e *StartError) Error() string { return e.Message }

// callError turns the error of a call into one of this package's.
func callError(method string, err error) error {
	var je *jrpc2.Error
	if !errors.As(err, &je) {
		return fmt.Errorf("guest agent: %s: %w", method, err)
	}
	msg := guestproto.CleanText(je.Message)
	switch je.Code {
	case guestproto.CodeStart:
		var f guestproto.StartFailure
		if json.Unmarshal(je.Data, &f) != nil || f.Validate() != nil {
			return fmt.Errorf("%w: %s failed without a valid exit code: %s", ErrGuest, method, msg)
		}
		return &StartError{ExitCode: f.ExitCode, Message: msg}
	case guestproto.CodeNoProcess:
		return fmt.Errorf("%w: %s", ErrNoProcess, msg)
	case guestproto.CodeState:
		return fmt.Errorf("%w: %s: %s", ErrState, method, msg)
	case jrpc2.MethodNotFound:
		return fmt.Errorf("%w: %s", ErrUnknown, method)
	}
	return fmt.Errorf("%w: %s: %s", ErrFailed, method, msg)
}
