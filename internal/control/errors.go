package control

import (
	"errors"
	"fmt"

	"github.com/hvctl/hvctl/internal/workload"
)

var (
	// ErrProtocol is wrapped when the other side broke the rules of the
	// stream or sent what is no answer of ours.
	ErrProtocol = errors.New("control protocol violated")
	// ErrGone is returned when a peer closed, or did not read for
	// StallTimeout.
	ErrGone = errors.New("peer is gone")
	// ErrDetached is returned by Stream.Copy after Detach.
	ErrDetached = errors.New("detached")
	// ErrBadRequest is wrapped when the owner could not make sense of a
	// request.
	ErrBadRequest = errors.New("bad request")
	// ErrBusy is wrapped when a bound (sessions, connections) is reached.
	ErrBusy = errors.New("too many at once")
	// ErrUpgraded is wrapped when the instance goes on in a new owner process:
	// asking again reaches that one. Client does so by itself; a stream ends.
	ErrUpgraded = errors.New("the instance has a new owner process")
)

// ErrorBody is the body of every response that is not 2xx, and of an error
// frame.
type ErrorBody struct {
	Error string `json:"error"`
	// Code is one of the names in codes, or "internal".
	Code string `json:"code"`
	// ExitCode goes with a process that could not be started: 125 to 127.
	ExitCode int `json:"exitCode,omitempty"`
}

// codes ties the errors that mean something to the caller to their name on
// the wire and their HTTP status.
var codes = []struct {
	name   string
	status int
	err    error
}{
	{"not_found", 404, workload.ErrNotFound},
	{"not_running", 409, workload.ErrNotRunning},
	{"unsupported", 501, workload.ErrUnsupported},
	{"bad_request", 400, ErrBadRequest},
	{"busy", 429, ErrBusy},
	{"upgraded", 409, ErrUpgraded},
}

func encodeError(err error) (status int, body ErrorBody) {
	body = ErrorBody{Error: err.Error(), Code: "internal"}
	status = 500
	if se, ok := errors.AsType[*workload.StartError](err); ok {
		body.Code, body.ExitCode, status = "start_failed", se.Code, 422
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			body.Code, status = c.name, c.status
		}
	}
	return status, body
}

// Err turns a received body back into an error that errors.Is and errors.As
// understand.
func (b ErrorBody) Err() error {
	if b.ExitCode != 0 {
		return &workload.StartError{Code: b.ExitCode, Err: errors.New(b.Error)}
	}
	for _, c := range codes {
		if c.name == b.Code {
			return &remoteError{text: b.Error, is: c.err}
		}
	}
	return fmt.Errorf("owner: %s", b.Error)
}

// remoteError has the owner's words and our identity.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }
