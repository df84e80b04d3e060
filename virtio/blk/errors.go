package blk

import "errors"

var (
	// ErrImage is wrapped when a disk image cannot be used.
	ErrImage = errors.New("disk image refused")
	// ErrLocked is wrapped when another VM uses the image.
	ErrLocked = errors.New("disk image is in use")
	// errRefused marks a request that asks for what cannot be.
	errRefused = errors.New("request refused")
)
