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

	"github.com/hvctl/hvctl/kvm"
)

// VM is what the controller needs of KVM.
type VM interface {
	// SetIRQLine drives pin gsi of the in-kernel irqchip (KVM_IRQ_LINE).
	SetIRQLine(gsi uint32, level bool) error
	// SignalMSI delivers one message (KVM_SIGNAL_MSI); delivered is false when
	// the guest blocks it.
	SignalMSI(addr uint64, data uint32) (delivered bool, err error)
	// SetGSIRouting replaces the routing table (KVM_SET_GSI_ROUTING); after an
	// error the old one is in force.
	SetGSIRouting(routes []kvm.IRQRoute) error
	// AssignIRQFD makes signals of an eventfd edges on a GSI (KVM_IRQFD);
	// DeassignIRQFD undoes it and waits for those under way.
	AssignIRQFD(eventfd int, gsi uint32) error
	DeassignIRQFD(eventfd int, gsi uint32) error
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

	metrics Metrics

	mu     sync.Mutex         // guards what follows
	next   uint32             // next free pin
	routes map[uint32]message // by GSI, those beside the pins', as KVM has them
}

// New returns a controller for vm, whose irqchip must exist before the first
// Signal.
func New(vm VM) *Controller {
	return &Controller{vm: vm, next: FirstFree, routes: map[uint32]message{}}
}

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
