package pci

import (
	"fmt"
	"slices"

	pcibus "github.com/hvctl/hvctl/internal/pci"
	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
)

// stateV1 is the section of a Transport.
type stateV1 struct {
	Core         virtio.CoreState     `json:"core"`
	Function     pcibus.FunctionState `json:"function"`
	Vectors      []vectorState        `json:"vectors"`
	ConfigVector uint16               `json:"config_vector"`
	QueueVectors []uint16             `json:"queue_vectors"`
	DeviceSel    uint32               `json:"device_feature_select"`
	DriverSel    uint32               `json:"driver_feature_select"`
	QueueSel     uint16               `json:"queue_select"`
	ISR          uint8                `json:"isr"`
}

// StateVersion returns 1.
func (t *Transport) StateVersion() uint32 { return 1 }

// SaveState returns the function and its registers. Preconditions: stopped.
func (t *Transport) SaveState() (any, error) {
	core, err := t.core.SaveState()
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	config, queues := t.configVector, slices.Clone(t.queueVector)
	t.mu.Unlock()
	return stateV1{
		Core: core, Function: t.fn.Save(), Vectors: t.msix.save(),
		ConfigVector: config, QueueVectors: queues,
		DeviceSel: t.deviceSel.Load(), DriverSel: t.driverSel.Load(),
		QueueSel: uint16(t.queueSel.Load()), ISR: uint8(t.isr.Load()),
	}, nil
}

// LoadState sets up a new transport whose function is on its bus. Errors wrap
// virtio.ErrState, internal/pci's ErrState or state.ErrCorrupt; then the
// transport is to be closed, not used.
func (t *Transport) LoadState(d state.Decoder) error {
	var s stateV1
	if err := d.Into(&s); err != nil {
		return err
	}
	if len(s.QueueVectors) != len(t.queueVector) {
		return fmt.Errorf("%w: vectors of %d queues for a device with %d", virtio.ErrState, len(s.QueueVectors), len(t.queueVector))
	}
	if err := t.core.LoadState(s.Core); err != nil {
		return err
	}
	if err := t.fn.Load(s.Function); err != nil {
		return fmt.Errorf("%w: %w", virtio.ErrState, err)
	}
	if err := t.msix.load(s.Vectors); err != nil {
		return err
	}
	t.setVector(-1, s.ConfigVector)
	for q, v := range s.QueueVectors {
		t.setVector(q, v)
	}
	t.deviceSel.Store(s.DeviceSel)
	t.driverSel.Store(s.DriverSel)
	t.queueSel.Store(uint32(s.QueueSel))
	t.isr.Store(uint32(s.ISR) & (isrQueue | isrConfig))
	return nil
}
