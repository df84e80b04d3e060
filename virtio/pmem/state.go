package pmem

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
)

type stateV1 struct {
	Start    uint64 `json:"start"` // guest physical address
	Bytes    uint64 `json:"bytes"` // of the file
	ReadOnly bool   `json:"read_only"`
}

// StateVersion returns 1.
func (d *Device) StateVersion() uint32 { return 1 }

// SaveState returns what the guest has been told. The content is a file's, and
// not part of the state.
func (d *Device) SaveState() (any, error) {
	return stateV1{uint64(d.base), d.size, d.readOnly}, nil
}

// LoadState refuses the state of another file: the guest would find other pages
// than it has mapped. It changes nothing.
func (d *Device) LoadState(dec state.Decoder) error {
	var s stateV1
	if err := dec.Into(&s); err != nil {
		return err
	}
	if have := (stateV1{uint64(d.base), d.size, d.readOnly}); s != have {
		return fmt.Errorf("%w: the guest had a file of %d bytes at %#x (read-only: %v), this machine has %d bytes at %#x (%v)",
			virtio.ErrState, s.Bytes, s.Start, s.ReadOnly, have.Bytes, have.Start, have.ReadOnly)
	}
	return nil
}
