package net

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
)

// stateV1 is what the driver has set by the control queue. The link's state
// belongs to the host it is plugged in at and is not carried along.
type stateV1 struct {
	Filter   filter  `json:"filter"`
	Announce bool    `json:"announce"`
	Chosen   bool    `json:"offloads_chosen"`
	Offloads Offload `json:"offloads"`
	Pairs    int     `json:"queue_pairs"`
}

// StateVersion returns 1.
func (d *Device) StateVersion() uint32 { return 1 }

// SaveState returns what the driver has set.
func (d *Device) SaveState() (any, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := stateV1{Filter: *d.filter.Load(), Announce: d.announce, Chosen: d.chosen, Pairs: d.active}
	if s.Chosen {
		s.Offloads = d.offloads
	}
	return s, nil
}

// LoadState takes it back, judged like the driver's commands.
func (d *Device) LoadState(dec state.Decoder) error {
	var s stateV1
	if err := dec.Into(&s); err != nil {
		return err
	}
	switch {
	case len(s.Filter.Uni) > maxTable || len(s.Filter.Multi) > maxTable:
		return fmt.Errorf("%w: address tables of %d and %d entries", virtio.ErrState, len(s.Filter.Uni), len(s.Filter.Multi))
	case s.Filter.MAC[0]&1 != 0:
		return fmt.Errorf("%w: multicast MAC address", virtio.ErrState)
	case s.Pairs < 1 || s.Pairs > len(d.pairs):
		return fmt.Errorf("%w: %d queue pairs of %d", virtio.ErrState, s.Pairs, len(d.pairs))
	case s.Offloads&^offloads(d.features) != 0:
		return fmt.Errorf("%w: offloads %#x that the backend cannot do", virtio.ErrState, uint(s.Offloads))
	}
	d.filter.Store(&s.Filter)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.announce, d.chosen, d.offloads, d.active = s.Announce, s.Chosen, s.Offloads, s.Pairs
	return nil
}
