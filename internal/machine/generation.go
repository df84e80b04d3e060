package machine

import (
	"crypto/rand"

	"github.com/hvctl/hvctl/internal/acpi"
)

// NewGeneration tells the guest that it is a copy: its VM generation ID changes
// and, where it has a driver, its kernel reseeds its random numbers. For a
// machine that was restored, before Resume.
func (m *Machine) NewGeneration() error {
	if m.ended.Load() {
		return ErrEnded
	}
	if err := m.writeGeneration(); err != nil {
		return err
	}
	if err := m.changeVMClock(func(c *vmClock) { c.Generation++ }); err != nil {
		return err
	}
	return m.power.event(acpi.GEDEventVMGenID)
}

func (m *Machine) writeGeneration() error {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return m.mem.WriteAt(id[:], vmGenIDAddr)
}
