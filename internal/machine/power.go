package machine

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/hvctl/hvctl/internal/acpi"
	"github.com/hvctl/hvctl/internal/state"
)

// power is the fixed hardware that a hardware-reduced ACPI machine keeps: the
// event register of the GED, the sleep registers and the reset register. See
// acpi.GED for the contract. It is a bus.Handler on I/O ports.
type power struct {
	events   atomic.Uint32
	raise    func() error // the GED's interrupt
	powerOff func()
	reset    func()
}

// ReadAt implements bus.Handler.
func (p *power) ReadAt(off uint64, b []byte) {
	clear(b)
	if off == offEvents && len(b) == 4 {
		binary.LittleEndian.PutUint32(b, p.events.Swap(0))
	}
}

// WriteAt implements bus.Handler.
func (p *power) WriteAt(off uint64, b []byte) {
	switch {
	case off == offSleep && b[0] == acpi.S5Value:
		p.powerOff()
	case off == offReset && b[0] == resetValue:
		p.reset()
	}
}

// event reports the GED events in bits to the guest.
func (p *power) event(bits uint32) error {
	p.events.Or(bits)
	return p.raise()
}

type powerState struct{ Events uint32 }

// StateVersion implements state.Stateful.
func (p *power) StateVersion() uint32 { return 1 }

// SaveState implements state.Stateful.
func (p *power) SaveState() (any, error) { return powerState{p.events.Load()}, nil }

// LoadState implements state.Stateful.
func (p *power) LoadState(d state.Decoder) error {
	var s powerState
	if err := d.Into(&s); err != nil {
		return err
	}
	p.events.Store(s.Events)
	if s.Events != 0 {
		return p.raise()
	}
	return nil
}
