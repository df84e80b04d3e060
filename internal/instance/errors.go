package instance

import (
	"errors"

	"github.com/hvctl/hvctl/internal/workload"
)

var (
	// ErrNotFound is wrapped when no instance has that name or ID.
	ErrNotFound = workload.ErrNotFound
	// ErrNameInUse is wrapped when another instance has that name.
	ErrNameInUse = workload.ErrNameInUse
	// ErrAmbiguous is wrapped when an ID prefix fits several instances.
	ErrAmbiguous = errors.New("fits more than one instance")
	// ErrLocked is wrapped when an owner (or a command that is about to start
	// one) holds the instance.
	ErrLocked = errors.New("instance is held by its owner")
	// ErrUnsafe is wrapped when other users may change the store.
	ErrUnsafe = errors.New("not safe")
	// ErrBadName is wrapped when a name has characters it must not have.
	ErrBadName = errors.New("bad name")
	// ErrCorrupt is wrapped when a file of the store cannot be understood.
	ErrCorrupt = errors.New("corrupt")
)
