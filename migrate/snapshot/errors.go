package snapshot

import "errors"

var (
	// ErrNotSnapshot is wrapped when a file is something else altogether.
	ErrNotSnapshot = errors.New("not a snapshot file")
	// ErrVersion is wrapped when a file needs another hvctl to be read.
	ErrVersion = errors.New("snapshot format version not supported")
	// ErrCorrupt is wrapped when a file is truncated, damaged or forged.
	ErrCorrupt = errors.New("snapshot file corrupt")
	// ErrChain is wrapped when a diff and what should be its bases do not fit.
	ErrChain = errors.New("snapshot chain broken")
)
