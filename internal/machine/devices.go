package machine

import (
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"slices"

	"github.com/hvctl/hvctl/internal/acpi"
	"github.com/hvctl/hvctl/internal/boot"
	"github.com/hvctl/hvctl/internal/bus"
	"github.com/hvctl/hvctl/internal/legacy"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/devices"
	"github.com/hvctl/hvctl/virtio/mmio"
)

// attached is a virtio device with its transport.
type attached struct {
	virtio.Transport
	id   string
	core *virtio.Core
}

// attachAll puts every device on its bus and describes the machine in
// m.platform.
func (m *Machine) attachAll() error {
	m.platform = acpi.Platform{
		Base: boot.ACPIBase, Limit: tablesLimit, IOAPIC: ioapicBase, VMGenID: vmGenIDAddr, VMClock: vmClockAddr,
		COM1: m.cfg.SerialOut != nil, PanicPort: portPanic,
		ResetReg: ioRegister(offReset), ResetValue: resetValue,
		SleepControl: ioRegister(offSleep), SleepStatus: ioRegister(offSleepState),
	}
	for i := range m.cfg.MaxCPUs {
		m.platform.CPUs = append(m.platform.CPUs, acpi.CPU{APICID: uint32(i), Offline: i >= m.cfg.CPUs})
	}
	if err := m.attachLegacy(); err != nil {
		return err
	}
	if err := m.createCPUPlug(); err != nil {
		return err
	}
	if err := m.attachWatchdog(); err != nil {
		return err
	}
	if m.cfg.Transport == PCI {
		if err := m.createPCI(); err != nil {
			return err
		}
	}
	registry := devices.Registry()
	for _, d := range m.cfg.Devices {
		dev := d.Device
		if dev == nil {
			d.Args.Log = m.cfg.Log
			var err error
			if dev, err = registry.New(d.Kind, d.Args); err != nil {
				return err
			}
		}
		if err := m.attach(dev, d.Args.ID); err != nil {
			drop(dev)
			return fmt.Errorf("device %s: %w", d.Args.ID, err)
		}
	}
	return m.attachMem()
}

// attachLegacy adds the power device, the ways to reset and the serial port.
func (m *Machine) attachLegacy() error {
	ged, err := m.irqs.Alloc()
	if err != nil {
		return err
	}
	reboot := func() { m.finish(End{Reason: Reboot}) }
	m.power = &power{raise: ged.Signal, powerOff: func() { m.finish(End{Reason: PowerOff}) }, reset: reboot}
	m.platform.GED = &acpi.GED{Register: ioRegister(offEvents), GSI: ged.GSI()}
	ranges := []bus.Range{
		{Base: portPower, Size: powerSize, Name: "power", Handler: m.power},
		{Base: portPanic, Size: 1, Name: "pvpanic", Handler: panicPort{func() { m.finish(End{Reason: Crash}) }}},
		{Base: legacy.I8042, Size: legacy.I8042Size, Name: "i8042", Handler: legacy.Keyboard{Reset: reboot}},
	}
	if m.cfg.Transport != PCI { // with PCI the port belongs to 0xcf8 to 0xcff
		ranges = append(ranges, bus.Range{Base: legacy.CF9, Size: 1, Name: "reset", Handler: legacy.ResetControl{Reset: reboot}})
	}
	if m.cfg.SerialOut != nil {
		line := m.irqs.Pin(legacy.COM1GSI)
		m.serial = legacy.NewSerial(m.cfg.SerialOut, func() {
			if err := line.Signal(); err != nil {
				m.fail(err)
			}
		})
		ranges = append(ranges, bus.Range{Base: legacy.COM1, Size: legacy.COM1Size, Name: "com1", Handler: m.serial})
	}
	for _, r := range ranges {
		if err := m.pio.Add(r); err != nil {
			return err
		}
	}
	return nil
}

// attach gives dev its transport and puts it on the bus. On error dev may be
// closed already or not.
func (m *Machine) attach(dev virtio.Device, id string) error {
	log := m.cfg.Log.With(slog.String("dev", id))
	if err := m.place(dev); err != nil {
		return err
	}
	if m.cfg.Transport == PCI {
		return m.attachPCI(dev, id, log)
	}
	line, err := m.irqs.Alloc()
	if err != nil {
		return fmt.Errorf("%w; use the pci transport for more devices", err)
	}
	base := virtioMMIOBase + memory.GPA(virtioMMIOStep*len(m.platform.VirtioMMIO))
	t, err := mmio.New(mmio.Options{
		Device: dev, Mem: m.mem, Doorbells: doorbells{m.vm}, Line: line, Base: base, Log: log, Fail: m.fail,
	})
	if err != nil {
		return err
	}
	m.devices = append(m.devices, attached{Transport: t, id: id, core: t.Core()})
	m.platform.VirtioMMIO = append(m.platform.VirtioMMIO, acpi.VirtioMMIO{Base: base, Size: virtioMMIOStep, GSI: line.GSI()})
	return m.mmio.Add(bus.Range{Base: uint64(base), Size: mmio.Size, Name: id, Handler: t})
}

// causes are the registers of all devices that the vCPUs' threads serve without
// coming back to us; nil for none.
func (m *Machine) causes() *kvm.CauseRegisters {
	c := &kvm.CauseRegisters{
		Base: uint64(virtioMMIOBase), Shift: uint8(bits.TrailingZeros(virtioMMIOStep)), Status: mmio.InterruptStatus, ACK: mmio.InterruptACK,
	}
	for _, d := range m.devices {
		t, ok := d.Transport.(*mmio.Transport)
		if !ok {
			return nil
		}
		c.Words = append(c.Words, t.Causes())
	}
	return c
}

// drop closes a device that has no transport to do so.
func drop(dev virtio.Device) {
	if c, ok := dev.(io.Closer); ok {
		_ = c.Close() // something else is being reported, or it is closed already
	}
}

// dropUnattached closes the ready-made devices that never got a transport.
func (m *Machine) dropUnattached() {
	for _, d := range m.cfg.Devices {
		if d.Device != nil && !slices.ContainsFunc(m.devices, func(a attached) bool { return a.core.Device() == d.Device }) {
			drop(d.Device)
		}
	}
}
