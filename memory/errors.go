package memory

import "errors"

var (
	// ErrMisaligned is wrapped by loads and stores of shared words whose
	// address is not a multiple of their size. Callers treat it as the guest's
	// error.
	ErrMisaligned = errors.New("guest address misaligned")
	// ErrLayout is wrapped by New when the regions asked for cannot be built.
	ErrLayout = errors.New("impossible guest memory layout")
)
