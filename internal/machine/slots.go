package machine

import (
	"encoding/binary"
	"sync"

	"github.com/hvctl/hvctl/internal/acpi"
	"github.com/hvctl/hvctl/internal/bus"
	"github.com/hvctl/hvctl/internal/pci"
)

// hotSlots is how many slots can be plugged into, the last of the bus: the guest
// keeps an object for each.
const hotSlots = 16

// hotplug is the register block of acpi.PCIHotplug, a bus.Handler on I/O ports. Its
// bits are not saved: a machine is, only while nothing is plugged in, and what is
// told of an empty slot means nothing.
type hotplug struct {
	raise func() error // GEDEventPCI
	// ejected is called on a vCPU's thread, under mu, once for each device.
	ejected func(d *hotDevice)

	mu       sync.Mutex // guards what follows; a leaf but for the PCI bus
	up, down uint32
	slots    [pci.Slots]*hotDevice // nil: nothing that can be ejected
}

// createHotplug adds the controller.
func (m *Machine) createHotplug() error {
	m.hotplug = &hotplug{raise: func() error { return m.power.event(acpi.GEDEventPCI) }, ejected: m.ejected}
	h := &acpi.PCIHotplug{Registers: acpi.Register{Space: acpi.SystemIO, Addr: portSlots}}
	for n := pci.Slots - hotSlots; n < pci.Slots; n++ {
		h.Slots = append(h.Slots, n)
	}
	m.platform.PCI.Hotplug = h
	return m.pio.Add(bus.Range{Base: portSlots, Size: acpi.PCIHotplugSize, Name: "pci slots", Handler: m.hotplug})
}

// ReadAt implements bus.Handler.
func (h *hotplug) ReadAt(off uint64, b []byte) {
	clear(b)
	if len(b) != 4 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var v uint32
	switch off {
	case acpi.PCIHotplugUp:
		v, h.up = h.up, 0
	case acpi.PCIHotplugDown:
		v, h.down = h.down, 0
	}
	binary.LittleEndian.PutUint32(b, v)
}

// WriteAt implements bus.Handler.
func (h *hotplug) WriteAt(off uint64, b []byte) {
	if off != acpi.PCIHotplugEject || len(b) != 4 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	v := binary.LittleEndian.Uint32(b)
	for n, d := range h.slots {
		if d != nil && v&(1<<n) != 0 {
			h.eject(n)
		}
	}
}

// eject takes the device out of slot n. mu is held.
func (h *hotplug) eject(n int) {
	d := h.slots[n]
	h.slots[n] = nil
	h.up &^= 1 << n
	h.down &^= 1 << n
	h.ejected(d)
}

// arrive tells the guest of a device that is on the bus.
func (h *hotplug) arrive(d *hotDevice) error {
	h.mu.Lock()
	h.slots[d.slot] = d
	h.up |= 1 << d.slot
	h.mu.Unlock()
	return h.raise()
}

// ask asks the guest for a device; there is none any more when it is gone.
func (h *hotplug) ask(d *hotDevice) error {
	h.mu.Lock()
	there := h.slots[d.slot] == d
	if there {
		h.down |= 1 << d.slot
	}
	h.mu.Unlock()
	if !there {
		return nil
	}
	return h.raise()
}

// withdraw takes back what the guest has not read yet, and reports whether there
// was that: the guest then knows nothing of the arrival or the request.
func (h *hotplug) withdraw(d *hotDevice) (arrival, request bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.slots[d.slot] != d {
		return false, false
	}
	bit := uint32(1) << d.slot
	arrival, request = h.up&bit != 0, h.down&bit != 0
	h.up &^= bit
	h.down &^= bit
	return arrival, request
}

// pull takes a device out of its slot, whatever the guest does with it.
func (h *hotplug) pull(d *hotDevice) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.slots[d.slot] == d {
		h.eject(d.slot)
	}
}
