package machine

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/metrics"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/virtio"
)

// irqMetrics begins the names of the counters of interrupts.
const irqMetrics = "irq"

// registerMetrics names the counters of interrupts ("irq.<name>") and of every
// device: those the core keeps as "<id>.<name>", the device's own beside them.
func (m *Machine) registerMetrics() error {
	if err := m.metrics.Register(irqMetrics, m.irqs.Metrics()); err != nil {
		return err
	}
	for _, d := range m.devices {
		if err := m.registerDevice(d); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) registerDevice(d attached) error {
	if err := m.metrics.Register(d.id, d.core.Metrics()); err != nil {
		return fmt.Errorf("device %s: %w", d.id, err)
	}
	if own, ok := d.core.Device().(virtio.Metered); ok {
		if err := m.metrics.Register(d.id, own.Metrics()); err != nil {
			return fmt.Errorf("device %s: %w", d.id, err)
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

// Distributions returns the histograms of devices that have counted something.
func (m *Machine) Distributions() []metrics.Distribution { return m.metrics.Distributions() }

// hostStats are KVM's own statistics of the vCPUs, opened when they are first
// asked for.
type hostStats struct {
	mu     sync.Mutex    // guards what follows
	opened chan struct{} // closed when all are open, or the rest cannot be; nil: nobody has asked
	closed bool
	fds    []*kvm.StatsFD
}

// hostStatsWait is how long a vCPU may take to come out of the guest and open its
// statistics. One that waits for memory (post-copy) may not come at all.
const hostStatsWait = time.Second

// open opens the statistics of every vCPU; where the host has none (Linux before
// 5.14) there are none. It interrupts the guest for an instant.
func (h *hostStats) open(m *Machine, opened chan struct{}) {
	defer close(opened)
	for _, c := range m.cpus {
		err := c.Do(func(c *kvm.VCPU) error {
			s, err := c.StatsFD()
			if err == nil {
				h.add(s)
			}
			return err
		})
		if err != nil {
			m.cfg.Log.Debug("no statistics of KVM", "err", err)
			return
		}
	}
}

func (h *hostStats) add(s *kvm.StatsFD) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		_ = s.Close() // of a descriptor that is only read
		return
	}
	h.fds = append(h.fds, s)
}

// close ends it; nothing is opened any more.
func (h *hostStats) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, s := range h.fds {
		_ = s.Close() // of a descriptor that is only read
	}
	h.fds = nil
}

// HostCounters returns what KVM counts for the vCPUs, summed over them, as
// "kvm.<name>_total": exits by reason among them, also those that KVM serves by
// itself. It may be called at any time. vCPUs that cannot be asked are left out.
func (m *Machine) HostCounters() map[string]uint64 {
	h := &m.host
	h.mu.Lock()
	if h.opened == nil {
		h.opened = make(chan struct{})
		go h.open(m, h.opened)
	}
	opened := h.opened
	h.mu.Unlock()
	select {
	case <-opened:
	case <-time.After(hostStatsWait):
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]uint64{}
	for _, s := range h.fds {
		all, err := s.Read()
		if err != nil {
			m.cfg.Log.Debug("statistics of KVM", "err", err)
			continue
		}
		for _, v := range all {
			if v.Type == kvm.StatCumulative && v.Unit == kvm.StatUnitNone && v.Len == 1 && !strings.HasPrefix(v.Name, "halt_poll") {
				out["kvm."+v.Name+"_total"] += v.Values[0]
			}
		}
	}
	return out
}
