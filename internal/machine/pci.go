package machine

import (
	"log/slog"

	"github.com/hvctl/hvctl/internal/acpi"
	"github.com/hvctl/hvctl/internal/bus"
	"github.com/hvctl/hvctl/internal/irq"
	"github.com/hvctl/hvctl/internal/legacy"
	"github.com/hvctl/hvctl/internal/pci"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
	virtiopci "github.com/hvctl/hvctl/virtio/pci"
)

// createPCI makes the root bus with both ways into configuration space.
func (m *Machine) createPCI() error {
	m.pci = pci.New(pci.Options{
		MMIO:     &m.mmio,
		Window32: memory.Span{GPA: pci32Base, Size: pci32Size},
		Window64: memory.Span{GPA: pci64Base, Size: pci64Size},
		Log:      m.cfg.Log,
	})
	m.platform.PCI = &acpi.PCI{
		ECAMBase: ecamBase, Buses: ecamBuses, CF8: true, KeepBARs: true,
		MMIO32: acpi.Window{Base: pci32Base, Size: pci32Size},
		MMIO64: acpi.Window{Base: pci64Base, Size: pci64Size},
	}
	if err := m.mmio.Add(bus.Range{Base: uint64(ecamBase), Size: pci.ECAMSize, Name: "ecam", Handler: m.pci.ECAM()}); err != nil {
		return err
	}
	if err := m.createHotplug(); err != nil {
		return err
	}
	reset := legacy.ResetControl{Reset: func() { m.finish(End{Reason: Reboot}) }}
	return m.pio.Add(bus.Range{Base: pci.PortBase, Size: pci.PortCount, Name: "pci config", Handler: m.pci.Ports(reset)})
}

// attachPCI puts a device into the next slot.
func (m *Machine) attachPCI(dev virtio.Device, id string, log *slog.Logger) error {
	t, err := m.transportPCI(dev, id, log, nil)
	if err != nil {
		return err
	}
	m.devices = append(m.devices, attached{Transport: t, id: id, core: t.Core()})
	_, err = m.pci.Add(t.Function())
	return err
}

func (m *Machine) transportPCI(dev virtio.Device, id string, log *slog.Logger, activated func()) (*virtiopci.Transport, error) {
	return virtiopci.New(virtiopci.Options{
		Device: dev, Name: id, Mem: m.mem, Doorbells: doorbells{m.vm}, MSI: messages{m.irqs}, Log: log, Fail: m.fail, Activated: activated,
	})
}

// messages makes MSI-X vectors.
type messages struct{ irqs *irq.Controller }

func (m messages) NewMSI() (virtiopci.MSI, error) { return m.irqs.NewMSI(), nil }

// The kernel can raise them, too.
var _ virtiopci.KernelMSI = (*irq.MSI)(nil)
