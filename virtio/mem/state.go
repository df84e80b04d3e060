package mem

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
)

type stateV1 struct {
	Start     uint64   `json:"start"` // guest physical address
	Bytes     uint64   `json:"bytes"` // of the region
	Block     uint64   `json:"block"` // bytes
	Requested uint64   `json:"requested"`
	Blocks    []uint64 `json:"blocks"` // bit n of word w: the guest has block 64*w+n
}

// StateVersion returns 1.
func (d *Device) StateVersion() uint32 { return 1 }

// SaveState returns which blocks the guest has; their content is RAM's.
func (d *Device) SaveState() (any, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.shape()
	s.Requested, s.Blocks = d.requested, d.memory.Blocks()
	return s, nil
}

func (d *Device) shape() stateV1 {
	span := d.memory.Span()
	return stateV1{Start: uint64(span.GPA), Bytes: span.Size, Block: d.memory.BlockSize()}
}

// LoadState takes it back, and refuses the state of another region.
func (d *Device) LoadState(dec state.Decoder) error {
	var s stateV1
	if err := dec.Into(&s); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	have := d.shape()
	if s.Start != have.Start || s.Bytes != have.Bytes || s.Block != have.Block {
		return fmt.Errorf("%w: the guest could be given %d bytes at %#x in blocks of %d, by this machine %d at %#x in blocks of %d",
			virtio.ErrState, s.Bytes, s.Start, s.Block, have.Bytes, have.Start, have.Block)
	}
	if s.Requested > s.Bytes || s.Requested%s.Block != 0 {
		return fmt.Errorf("%w: %d bytes were requested of a region of %d", virtio.ErrState, s.Requested, s.Bytes)
	}
	if err := d.memory.SetBlocks(s.Blocks); err != nil {
		return fmt.Errorf("%w: %w", virtio.ErrState, err)
	}
	d.requested = s.Requested
	d.tell()
	return nil
}
