package memory

import (
	"errors"
	"fmt"
)

// GPA is a guest physical address in bytes. It never mixes with host
// addresses: the only ways from a GPA to bytes are the methods of Guest,
// which check bounds.
type GPA uint64

// Add returns a+n, or ok=false when the sum wraps around 2^64.
func (a GPA) Add(n uint64) (sum GPA, ok bool) {
	sum = a + GPA(n)
	return sum, sum >= a
}

// String formats the address the way kernel logs do.
func (a GPA) String() string { return fmt.Sprintf("%#x", uint64(a)) }

// ErrOutOfRange is wrapped by every access that is not wholly inside one RAM
// region. Addresses come from the guest, so callers treat it as the guest's
// error, never as ours.
var ErrOutOfRange = errors.New("guest address outside RAM")
