package console

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
)

// stateV1: output that waits belongs to this host and is written here.
type stateV1 struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
	Input   []byte `json:"input"` // typed, not read yet
	Sent    int    `json:"sent"`  // bytes taken of the next chain of output
}

// StateVersion returns 1.
func (d *Device) StateVersion() uint32 { return 1 }

// SaveState returns the state.
func (d *Device) SaveState() (any, error) {
	d.mu.Lock()
	s := stateV1{Columns: d.cols, Rows: d.rows, Sent: d.out.sent}
	d.mu.Unlock()
	d.in.mu.Lock()
	s.Input = append([]byte{}, d.in.pend...)
	d.in.mu.Unlock()
	return s, nil
}

// LoadState takes it back. What was typed here already comes after it.
func (d *Device) LoadState(dec state.Decoder) error {
	var s stateV1
	if err := dec.Into(&s); err != nil {
		return err
	}
	if len(s.Input) > inputBuffer || s.Sent < 0 {
		return fmt.Errorf("%w: console with %d bytes of input and %d bytes sent", virtio.ErrState, len(s.Input), s.Sent)
	}
	d.mu.Lock()
	d.cols, d.rows = s.Columns, s.Rows
	d.out.sent = s.Sent
	d.mu.Unlock()
	d.in.mu.Lock()
	if len(s.Input) > 0 {
		d.in.pend = append(s.Input, d.in.pend...) // above the bound for once
	}
	d.in.mu.Unlock()
	return nil
}
