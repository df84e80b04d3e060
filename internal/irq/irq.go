// Package irq gives devices their interrupts: lines (pins of the in-kernel
// I/O APIC) and message-signalled ones. Devices see only the small interfaces
// their transport declares; this package is where they meet KVM.
//
// See docs/adr/0005-signal-msi.md for why messages are signalled by ioctl and
// routes exist only for producers inside the kernel.
package irq

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// VM is what the controller needs of KVM.
type VM interface {
	// SetIRQLine drives pin gsi of the in-kernel irqchip (KVM_IRQ_LINE).
	SetIRQLine(gsi uint32, level bool) error
	// SignalMSI delivers one message (KVM_SIGNAL_MSI); delivered is false when
	// the guest blocks it.
	SignalMSI(addr uint64, data uint32) (delivered bool, err error)
}

// Pins of the I/O APIC. The first FirstFree belong to legacy devices.
const (
	Pins      = 24
	FirstFree = 5
)

// ErrNoPin means every pin of the I/O APIC is in use.
var ErrNoPin = errors.New("no free interrupt line")

// Controller hands out interrupts of one VM. Methods may be called
// concurrently.
type Controller struct {
	vm VM

	mu   sync.Mutex
	next uint32 // next free pin
}

// New returns a controller for vm, whose irqchip must exist before the first
// Signal.
func New(vm VM) *Controller { return &Controller{vm: vm, next: FirstFree} }

// Pin returns the line of a pin with a fixed number (COM1's is 4).
func (c *Controller) Pin(gsi uint32) *Line { return &Line{vm: c.vm, gsi: gsi} }

// Alloc returns the next free pin. It returns ErrNoPin when there is none.
func (c *Controller) Alloc() (*Line, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next >= Pins {
		return nil, fmt.Errorf("%w: the I/O APIC has %d", ErrNoPin, Pins)
	}
	c.next++
	return c.Pin(c.next - 1), nil
}

// Line is an edge-triggered, active-high pin.
type Line struct {
	vm  VM
	gsi uint32
	mu  sync.Mutex // held for a whole pulse
}

// GSI is the pin's number, for ACPI tables.
func (l *Line) GSI() uint32 { return l.gsi }

// Signal sends one edge. Pulses of one line never overlap: a rise while the
// line is still high from another queue's pulse would be no edge, and the guest
// may have served that one already.
func (l *Line) Signal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.vm.SetIRQLine(l.gsi, true); err != nil {
		return err
	}
	return l.vm.SetIRQLine(l.gsi, false)
}

// MSI is one message-signalled interrupt, such as an MSI-X table entry.
type MSI struct {
	vm  VM
	msg atomic.Pointer[message]
}

type message struct {
	addr uint64
	data uint32
}

// NewMSI returns an interrupt that is masked until it has a route.
func (c *Controller) NewMSI() *MSI { return &MSI{vm: c.vm} }

// Route sets the message and unmasks.
func (m *MSI) Route(addr uint64, data uint32) error {
	m.msg.Store(&message{addr, data})
	return nil
}

// Mask stops Signal from having an effect until the next Route.
func (m *MSI) Mask() error {
	m.msg.Store(nil)
	return nil
}

// Signal delivers the message. On a masked interrupt it does nothing: the
// transport keeps the pending bit. A message that makes no sense to KVM is lost,
// as on a real bus: the guest wrote it.
func (m *MSI) Signal() error {
	msg := m.msg.Load()
	if msg == nil {
		return nil
	}
	if _, err := m.vm.SignalMSI(msg.addr, msg.data); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// Close masks the interrupt for good.
func (m *MSI) Close() error { return m.Mask() }
