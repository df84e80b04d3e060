package migrate

import "errors"

var (
	// ErrRefused is wrapped when the other side said no, with its reason.
	ErrRefused = errors.New("refused")
	// ErrInDoubt is wrapped when the machine may run at the destination and
	// nobody could be asked: it stays paused here. Settle asks again; an operator
	// can decide.
	ErrInDoubt = errors.New("in doubt whether the destination runs the machine")
	// ErrNotConverging is wrapped when the guest wrote faster than the link
	// carries and the options say to give up.
	ErrNotConverging = errors.New("the guest changes its memory faster than it can be sent")
	// ErrProtocol is wrapped when the peer says what the protocol does not allow.
	ErrProtocol = errors.New("protocol violation")
	// errLink is wrapped by failures of connections, after which dialling again
	// may help.
	errLink = errors.New("connection lost")
)
