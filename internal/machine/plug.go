package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/pci"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/devices"
)

var (
	// ErrPlug is wrapped when a device cannot be plugged in or out as things are.
	ErrPlug = errors.New("hotplug")
	// ErrUntaken is wrapped when the guest does not do its part in time.
	ErrUntaken = errors.New("the guest did not answer")
)

// hotDevice is a device that came while the guest ran.
type hotDevice struct {
	attached
	slot  int
	taken chan struct{} // has a token when a driver took it
	gone  chan struct{} // closed when it is closed
}

// DeviceInfo says what a device is doing.
type DeviceInfo struct {
	ID, Kind string
	Slot     int  // on PCI bus 0; 0: on none
	Plugged  bool // in while the guest ran
	InUse    bool // a driver has taken it
}

// all returns every device there is. mu is held.
func (m *Machine) all() []attached {
	all := slices.Clone(m.devices)
	for _, d := range m.hot {
		all = append(all, d.attached)
	}
	return all
}

// unplugged returns why the machine cannot be saved because of what was plugged
// in. mu is held.
func (m *Machine) unplugged() error {
	if len(m.hot) == 0 {
		return nil
	}
	var ids []string
	for _, d := range m.hot {
		ids = append(ids, d.id)
	}
	return fmt.Errorf("%w: %s was plugged in while the guest ran, and cannot go along: take it out first (`hvctl device rm`)", ErrPlug, strings.Join(ids, ", "))
}

// DeviceList lists the devices, those from the start first, in the order they came.
func (m *Machine) DeviceList() (out []DeviceInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, d := range m.devices {
		slot := 0
		if m.pci != nil {
			slot = i + 1
		}
		out = append(out, DeviceInfo{d.id, d.core.Info().ID.Kind(), slot, false, d.inUse()})
	}
	for _, d := range m.hot {
		out = append(out, DeviceInfo{d.id, d.core.Info().ID.Kind(), d.slot, true, d.inUse()})
	}
	return out
}

func (a attached) inUse() bool { return a.core.Status()&virtio.StatusDriverOK != 0 }

// Plug adds a device to a running guest and waits until a driver there has taken
// it, or ctx ends. A guest that has not even looked by then does not get it. One
// that has looked keeps it: the error then says so, and DeviceList has it. Errors
// wrap ErrPlug, ErrUntaken, ErrEnded or say why there is no such device; files in
// d.Args are the caller's unless the device was made.
func (m *Machine) Plug(ctx context.Context, d Device) error {
	h, err := m.plug(d)
	if err != nil {
		return err
	}
	select {
	case <-h.taken:
		return nil
	case <-h.gone:
		return fmt.Errorf("%w: device %s: the guest has given it back at once", ErrPlug, h.id)
	case <-ctx.Done():
	}
	select {
	case <-h.taken: // both: what the guest did counts
		return nil
	default:
	}
	if arrival, _ := m.hotplug.withdraw(h); arrival {
		m.hotplug.pull(h)
		<-h.gone
		return fmt.Errorf("%w: device %s was not plugged in: the guest never looked for it; is its kernel still starting, or without CONFIG_HOTPLUG_PCI_ACPI?", ErrUntaken, h.id)
	}
	return fmt.Errorf("%w: device %s is in PCI slot %d, and no driver there has taken it so far; is the driver missing?", ErrUntaken, h.id, h.slot)
}

// plug puts a device into a slot and tells the guest.
func (m *Machine) plug(d Device) (*hotDevice, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot, err := m.mayPlug(d.Args.ID)
	if err != nil {
		return nil, err
	}
	d.Args.Log = m.cfg.Log
	dev, err := devices.Registry().New(d.Kind, d.Args)
	if err != nil {
		return nil, err
	}
	h := &hotDevice{slot: slot, taken: make(chan struct{}, 1), gone: make(chan struct{})}
	log := m.cfg.Log.With(slog.String("dev", d.Args.ID))
	t, err := m.transportPCI(dev, d.Args.ID, log, func() {
		select {
		case h.taken <- struct{}{}:
		default:
		}
	})
	if err != nil {
		drop(dev)
		return nil, fmt.Errorf("device %s: %w", d.Args.ID, err)
	}
	h.attached = attached{Transport: t, id: d.Args.ID, core: t.Core()}
	if err := m.registerDevice(h.attached); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if err := m.pci.AddAt(t.Function(), slot); err != nil {
		m.metrics.Unregister(h.id)
		return nil, errors.Join(err, t.Close())
	}
	m.hot = append(m.hot, h)
	if err := m.hotplug.arrive(h); err != nil {
		m.fail(err)
	}
	return h, nil
}

// mayPlug returns the slot for a device called id. mu is held.
func (m *Machine) mayPlug(id string) (slot int, err error) {
	no := func(format string, args ...any) (int, error) {
		return 0, fmt.Errorf("%w: "+format, append([]any{ErrPlug}, args...)...)
	}
	switch {
	case m.closed || m.ended.Load():
		return 0, ErrEnded
	case m.hotplug == nil:
		return no("the machine's devices are attached by %s, where none can come or go while it runs; start it with --transport pci", m.cfg.Transport)
	case m.paused.Load():
		return no("the machine is paused; resume it first")
	case m.logging:
		return no("the machine is being saved or sent")
	case id == "" || id == irqMetrics || strings.Contains(id, "."): // names of metrics begin with it
		return no("a device cannot be called %q", id)
	case slices.ContainsFunc(m.all(), func(a attached) bool { return a.id == id }):
		return no("there is a device %q already", id)
	}
	for slot := pci.Slots - hotSlots; slot < pci.Slots; slot++ {
		taken := func(d *hotDevice) bool { return d.slot == slot }
		if !slices.ContainsFunc(m.hot, taken) && slot > len(m.devices) { // those that were there took the first
			return slot, nil
		}
	}
	return no("no free slot: %d devices were plugged in", len(m.hot))
}

// Unplug asks the guest for a device that was plugged in, and waits until it has
// been given back and is closed, or ctx ends. With force it is taken then all the
// same, as if somebody had pulled it out. Errors wrap ErrPlug, ErrUntaken or
// ErrEnded.
func (m *Machine) Unplug(ctx context.Context, id string, force bool) error {
	h, err := m.mayUnplug(id)
	if err != nil {
		return err
	}
	if err := m.hotplug.ask(h); err != nil {
		return err
	}
	select {
	case <-h.gone:
		return nil
	case <-ctx.Done():
	}
	_, unread := m.hotplug.withdraw(h)
	switch {
	case force:
		m.hotplug.pull(h)
		<-h.gone
		return nil
	case unread:
		return fmt.Errorf("%w: device %s stays: the guest never looked at the request; is its kernel without CONFIG_HOTPLUG_PCI_ACPI?", ErrUntaken, id)
	default:
		return fmt.Errorf("%w: device %s stays until the guest lets go of it; it was asked, and has not done so yet", ErrUntaken, id)
	}
}

func (m *Machine) mayUnplug(id string) (*hotDevice, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.hot, func(d *hotDevice) bool { return d.id == id })
	switch {
	case m.closed || m.ended.Load():
		return nil, ErrEnded
	case m.paused.Load():
		return nil, fmt.Errorf("%w: the machine is paused; resume it first", ErrPlug)
	case i >= 0:
		return m.hot[i], nil
	case slices.ContainsFunc(m.devices, func(a attached) bool { return a.id == id }):
		return nil, fmt.Errorf("%w: device %q was there when the machine started, and stays", ErrPlug, id)
	}
	return nil, fmt.Errorf("%w: no device %q was plugged in", ErrPlug, id)
}

// ejected takes a device off the bus and closes it later: it may be called by a
// vCPU, which the workers of the device and the grace period must not wait for.
func (m *Machine) ejected(d *hotDevice) {
	m.pci.Remove(d.slot)
	go m.closeEjected(d)
}

// closeEjected closes a device that is off the bus.
func (m *Machine) closeEjected(d *hotDevice) {
	for _, c := range m.cpus {
		// When this returns, the vCPU is in no handler that it had found before.
		_ = c.Do(func(*kvm.VCPU) error { return nil }) // fails only when it has ended
	}
	err := d.Close()
	m.metrics.Unregister(d.id)
	m.mu.Lock()
	m.hot = slices.DeleteFunc(m.hot, func(x *hotDevice) bool { return x == d })
	m.mu.Unlock()
	if err != nil {
		m.cfg.Log.Warn("unplugged device not closed well", "dev", d.id, "err", err)
	}
	close(d.gone)
}

// closeHot closes what was plugged in, at the machine's end. The vCPUs are gone.
func (m *Machine) closeHot() {
	m.mu.Lock()
	hot := slices.Clone(m.hot)
	m.mu.Unlock()
	for _, d := range hot {
		m.hotplug.pull(d) // unless the guest was first
		<-d.gone
	}
}
