package rootfs

import "errors"

var (
	// ErrBadLayer says that a layer is damaged or has an entry that cannot
	// be applied: a truncated archive, a link to nothing, an unknown kind.
	ErrBadLayer = errors.New("bad image layer")
	// ErrUnsafePath says that an entry's name tries to leave the root.
	ErrUnsafePath = errors.New("unsafe path in image layer")
	// ErrLimit says that the layers hold more than Options allow.
	ErrLimit = errors.New("image too large")
	// ErrDiffID says that a layer's contents are not what the image's
	// configuration promises.
	ErrDiffID = errors.New("layer does not match its diff ID")
)
