package irq

import (
	"errors"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/eventfd"
)

// MSI is one message-signalled interrupt, such as an MSI-X table entry. Signal
// may be called at any time; calls of the other methods must not overlap.
type MSI struct {
	c   *Controller
	msg atomic.Pointer[message]

	bound []*eventfd.EventFD // signalled by somebody in the kernel
	gsi   uint32             // routed to a message; 0 means none
	wired int                // so many of bound are irqfds of gsi
}

type message struct {
	addr uint64
	data uint32
}

// NewMSI returns an interrupt that is masked until it has a route.
func (c *Controller) NewMSI() *MSI { return &MSI{c: c} }

// Route sets the message and unmasks. Should KVM refuse to raise it for bound
// eventfds by itself, their signals stay with whoever waits on them, and that is
// counted (Metrics).
func (m *MSI) Route(addr uint64, data uint32) error {
	m.msg.Store(&message{addr, data})
	_ = m.connect() // counted, and there is another way
	return nil
}

// Mask stops Signal and bound eventfds from having an effect until the next
// Route. A GSI that is in use stays taken: the guest may mask and unmask often.
func (m *MSI) Mask() error {
	m.msg.Store(nil)
	return m.disconnect()
}

// Signal delivers the message. On a masked interrupt it does nothing: the
// transport keeps the pending bit. A message that makes no sense to KVM is lost,
// as on a real bus: the guest wrote it.
func (m *MSI) Signal() error {
	msg := m.msg.Load()
	if msg == nil {
		return nil
	}
	if _, err := m.c.vm.SignalMSI(msg.addr, msg.data); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// Bind makes KVM deliver the message for each signal of ev, without a call of
// Signal, while there is a route; else signals stay in ev. ev stays open until
// Unbind or Close. On error it is not bound.
func (m *MSI) Bind(ev *eventfd.EventFD) error {
	m.bound = append(m.bound, ev)
	err := m.connect()
	if err != nil {
		err = errors.Join(err, m.Unbind(ev))
	}
	return err
}

// Unbind undoes Bind: when it returns, KVM delivers nothing for ev any more.
// With the last one goes the route.
func (m *MSI) Unbind(ev *eventfd.EventFD) error {
	i := slices.Index(m.bound, ev)
	if i < 0 {
		return nil
	}
	var err error
	if i < m.wired {
		err = m.c.vm.DeassignIRQFD(ev.FD(), m.gsi)
		m.wired--
	}
	m.bound = slices.Delete(m.bound, i, i+1)
	return errors.Join(err, m.release())
}

// Close masks the interrupt for good.
func (m *MSI) Close() error {
	err := m.Mask()
	m.bound = nil
	return errors.Join(err, m.release())
}

// connect makes irqfds of what is bound, if there is a message.
func (m *MSI) connect() error {
	msg := m.msg.Load()
	if msg == nil || len(m.bound) == 0 {
		return nil
	}
	err := m.c.route(&m.gsi, *msg)
	for err == nil && m.wired < len(m.bound) {
		if err = m.c.vm.AssignIRQFD(m.bound[m.wired].FD(), m.gsi); err == nil {
			m.wired++
			m.c.metrics.IRQFDs.Add(1)
		}
	}
	if err != nil {
		m.c.metrics.Refused.Add(1)
		err = errors.Join(err, m.disconnect()) // by the old message they would go wrong
	}
	return err
}

// disconnect takes the irqfds back.
func (m *MSI) disconnect() (err error) {
	for ; m.wired > 0; m.wired-- {
		err = errors.Join(err, m.c.vm.DeassignIRQFD(m.bound[m.wired-1].FD(), m.gsi))
	}
	return err
}

// release gives the GSI back when nothing is bound.
func (m *MSI) release() error {
	if m.gsi == 0 || len(m.bound) > 0 {
		return nil
	}
	gsi := m.gsi
	m.gsi = 0
	return m.c.unroute(gsi)
}
