package machine

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"

	"github.com/hvctl/hvctl/internal/acpi"
	"github.com/hvctl/hvctl/internal/bus"
	"github.com/hvctl/hvctl/internal/state"
)

// cpuPlug is the register block of acpi.CPUHotplug, a bus.Handler on I/O ports. Of
// each set bit n is vCPU n.
type cpuPlug struct {
	raise func() error // GEDEventCPU
	// ejected is called on a vCPU's thread when others have been given back.
	ejected func()
	all     uint64 // vCPUs that there can be; constant

	mu       sync.Mutex // guards what follows; a leaf
	present  uint64     // plugged in; vCPU 0 always is
	up, down uint64     // of those, what the guest has not read yet
	left     uint64     // given back, and perhaps still in the guest: see Machine.vacate
	changed  chan struct{}
}

func newCPUPlug(now, most int) *cpuPlug {
	return &cpuPlug{present: lowest(now), all: lowest(most), changed: make(chan struct{})}
}

func lowest(n int) uint64 { return 1<<n - 1 } // of 64 it is all ones, for Go shifts that out

// createCPUPlug adds the controller, where processors can come.
func (m *Machine) createCPUPlug() error {
	if m.cfg.MaxCPUs == m.cfg.CPUs {
		return nil
	}
	m.plugCPU = newCPUPlug(m.cfg.CPUs, m.cfg.MaxCPUs)
	m.plugCPU.raise = func() error { return m.power.event(acpi.GEDEventCPU) }
	m.plugCPU.ejected = func() { go m.afterEject() }
	m.platform.CPUHotplug = &acpi.CPUHotplug{Registers: acpi.Register{Space: acpi.SystemIO, Addr: portCPUs}}
	return m.pio.Add(bus.Range{Base: portCPUs, Size: acpi.CPUHotplugSize, Name: "cpu slots", Handler: m.plugCPU})
}

// ReadAt implements bus.Handler.
func (p *cpuPlug) ReadAt(off uint64, b []byte) {
	clear(b)
	if len(b) != 4 || off%4 != 0 {
		return
	}
	shift := off % 8 * 8
	word := uint64(0xffff_ffff) << shift
	p.mu.Lock()
	defer p.mu.Unlock()
	var v uint64
	switch off &^ 7 {
	case acpi.CPUHotplugPresent:
		v = p.present
	case acpi.CPUHotplugUp:
		v, p.up = p.up, p.up&^word
	case acpi.CPUHotplugDown:
		v, p.down = p.down, p.down&^word
	}
	binary.LittleEndian.PutUint32(b, uint32(v>>shift))
}

// WriteAt implements bus.Handler.
func (p *cpuPlug) WriteAt(off uint64, b []byte) {
	if off&^7 != acpi.CPUHotplugEject || off%4 != 0 || len(b) != 4 {
		return
	}
	v := uint64(binary.LittleEndian.Uint32(b)) << (off % 8 * 8)
	p.mu.Lock()
	defer p.mu.Unlock()
	if v &= p.present &^ 1; v == 0 {
		return
	}
	p.remove(v)
	p.ejected()
}

// remove takes vCPUs away from the guest. mu is held.
func (p *cpuPlug) remove(set uint64) {
	p.present &^= set
	p.up &^= set
	p.down &^= set
	p.left |= set
	p.tell()
}

// tell wakes those who wait for a change. mu is held.
func (p *cpuPlug) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// woken hears from a vCPU's thread that the guest has begun to start it.
func (p *cpuPlug) woken() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tell()
}

// has tells whether vCPU i is plugged in. p may be nil: then all are.
func (p *cpuPlug) has(i int) bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.present>>i&1 != 0
}

// now returns what is plugged in, and what is closed when some of that is gone or
// has been started.
func (p *cpuPlug) now() (present uint64, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.present, p.changed
}

// arrive plugs vCPUs in, which stand still, and tells the guest.
func (p *cpuPlug) arrive(set uint64) error {
	p.mu.Lock()
	p.present |= set
	p.up |= set
	p.mu.Unlock()
	return p.raise()
}

// ask asks the guest for vCPUs.
func (p *cpuPlug) ask(set uint64) error {
	p.mu.Lock()
	p.down |= set & p.present
	p.mu.Unlock()
	return p.raise()
}

// withdraw takes back what the guest has not read: arrivals, which are gone then, or
// requests. It returns them.
func (p *cpuPlug) withdraw(arrivals, requests uint64) (unseen, unread uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	unseen, unread = p.up&arrivals, p.down&requests
	p.down &^= unread
	if unseen != 0 {
		p.remove(unseen)
	}
	return unseen, unread
}

// leavers returns the vCPUs that were given back since it was last asked.
func (p *cpuPlug) leavers() (set uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	set, p.left = p.left, 0
	return set
}

type cpuPlugV1 struct {
	Present uint64 `json:"present"`
	Up      uint64 `json:"up"`
	Down    uint64 `json:"down"`
}

// StateVersion implements state.Stateful.
func (p *cpuPlug) StateVersion() uint32 { return 1 }

// SaveState implements state.Stateful.
func (p *cpuPlug) SaveState() (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return cpuPlugV1{p.present, p.up, p.down}, nil
}

// LoadState implements state.Stateful. A guest that has not heard of a bit has the
// GED's event pending, too.
func (p *cpuPlug) LoadState(d state.Decoder) error {
	var s cpuPlugV1
	if err := d.Into(&s); err != nil {
		return err
	}
	if s.Present&1 == 0 || s.Present&^p.all != 0 || (s.Up|s.Down)&^s.Present != 0 || (s.Up|s.Down)&1 != 0 {
		return fmt.Errorf("vCPUs %#x, told of %#x and %#x, of a machine with %d", s.Present, s.Up, s.Down, bits.OnesCount64(p.all))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.present, p.up, p.down, p.left = s.Present, s.Up, s.Down, p.all&^s.Present
	return nil
}
