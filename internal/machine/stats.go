package machine

import (
	"fmt"

	"github.com/hvctl/hvctl/virtio"
)

// registerMetrics names the counters of interrupts ("irq.<name>") and of every
// device: those the core keeps as "<id>.<name>", the device's own beside them.
func (m *Machine) registerMetrics() error {
	if err := m.metrics.Register("irq", m.irqs.Metrics()); err != nil {
		return err
	}
	for _, d := range m.devices {
		if err := m.metrics.Register(d.id, d.core.Metrics()); err != nil {
			return fmt.Errorf("device %s: %w", d.id, err)
		}
		if own, ok := d.core.Device().(virtio.Metered); ok {
			if err := m.metrics.Register(d.id, own.Metrics()); err != nil {
				return fmt.Errorf("device %s: %w", d.id, err)
			}
		}
	}
	return nil
}

// Counters returns every counter of the machine: vCPU exits by reason, summed
// over the vCPUs, and "<device>.<counter>". It may be called at any time.
func (m *Machine) Counters() map[string]uint64 {
	out := map[string]uint64{}
	for _, c := range m.cpus {
		c.Counters().Add(out)
	}
	for _, v := range m.metrics.Snapshot() {
		out[v.Name] = v.Value
	}
	return out
}
