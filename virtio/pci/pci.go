package pci

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/hvctl/hvctl/internal/eventfd"
	pcibus "github.com/hvctl/hvctl/internal/pci"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// Layout of the BAR. Each structure has pages of its own.
const (
	barIndex   = 0
	barSize    = 0x8000
	offCommon  = 0x0000
	lenCommon  = 0x38
	offISR     = 0x1000
	lenISR     = 4
	offDevice  = 0x2000
	lenDevice  = 0x1000
	offNotify  = 0x3000
	lenNotify  = 0x1000
	offTable   = 0x4000
	lenTable   = 0x1000
	offPBA     = 0x5000
	multiplier = 4             // bytes between doorbells (§4.1.4.4)
	maxVectors = lenTable / 16 // entries that fit the table's page
	maxQueues  = lenNotify / multiplier
)

// noVector is VIRTIO_MSI_NO_VECTOR: no interrupt for this cause.
const noVector = 0xffff

// Options says what to make. All but Log and Fail are required.
type Options struct {
	Device    virtio.Device
	Name      string // of the function, for messages: "disk0"
	Mem       *memory.Guest
	Doorbells virtio.Doorbells
	MSI       MSIAllocator
	Log       *slog.Logger // nil discards
	Fail      func(error)  // the machine cannot go on; see virtio.CoreOptions
	// Activated is told each time that a driver has taken the device; nil is fine.
	// It is called under locks, and must only note that.
	Activated func()
}

// Transport is one device behind a PCI function. It is a virtio.Transport; its
// bus.Handler is the BAR, which the PCI bus puts on the MMIO bus. Add its
// Function to a bus before the guest runs.
type Transport struct {
	core  *virtio.Core
	fn    *pcibus.Function
	msix  *msix
	bells bells

	deviceSel, driverSel, queueSel atomic.Uint32
	isr                            atomic.Uint32
	access                         accessCap

	mu           sync.Mutex // guards what follows; taken before msix's lock, but for that a leaf
	configVector uint16
	queueVector  []uint16
	calls        []*eventfd.EventFD // by queue: bound to its vector; nil when it is served here
}

// New makes the transport and takes the device over: Close closes both.
func New(o Options) (*Transport, error) {
	log := cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	t := &Transport{}
	activated := o.Activated
	if activated == nil {
		activated = func() {}
	}
	core, err := virtio.NewCore(virtio.CoreOptions{
		Device: o.Device, Mem: o.Mem, Interrupt: interrupt{t}, Log: log, Fail: o.Fail,
		Activated: func() { t.bells.activate(true); activated() }, Deactivated: func() { t.bells.activate(false) }, OnReset: t.reset,
	})
	if err != nil {
		return nil, err
	}
	t.core = core
	t.queueVector = make([]uint16, core.NumQueues())
	t.calls = make([]*eventfd.EventFD, core.NumQueues())
	t.bells = bells{to: o.Doorbells, core: core, log: log}
	if err := t.build(o, log); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	t.reset()
	return t, nil
}

// build makes the function with its capabilities.
func (t *Transport) build(o Options, log *slog.Logger) error {
	info := t.core.Info()
	t.fn = pcibus.NewFunction(o.Name, header(info.ID), log)
	err := t.fn.AddBAR(barIndex, pcibus.BAR{Size: barSize, Handler: t, Moved: t.bells.moved})
	if err != nil {
		return err
	}
	if err := t.addCaps(info); err != nil {
		return err
	}
	t.msix, err = newMSIX(t.fn, min(1+t.core.NumQueues(), maxVectors), o.MSI, log)
	return err
}

// Core returns the device behind the registers, for metrics and inspection.
func (t *Transport) Core() *virtio.Core { return t.core }

// Function returns the PCI function, to be added to a bus.
func (t *Transport) Function() *pcibus.Function { return t.fn }

// Notify does what a write to a doorbell does.
func (t *Transport) Notify(queue int) { t.core.Notify(queue) }

// Stop pauses the device; see virtio.Core.Stop.
func (t *Transport) Stop(ctx context.Context) error { return t.core.Stop(ctx) }

// Start resumes the device; see virtio.Core.Start.
func (t *Transport) Start() error { return t.core.Start() }

// Close stops the device for good and gives its interrupts back. Remove the
// function from its bus first.
func (t *Transport) Close() error {
	err := t.core.Close()
	if t.msix != nil {
		err = errors.Join(err, t.msix.close())
	}
	return err
}

// reset is the part of a device reset that the core does not know. MSI-X
// belongs to the function and stays (§4.1.5.1.2.1 resets only the mapping).
func (t *Transport) reset() {
	t.deviceSel.Store(0)
	t.driverSel.Store(0)
	t.queueSel.Store(0)
	t.isr.Store(0)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.configVector = noVector
	for q := range t.queueVector {
		t.wire(q, noVector, t.calls[q])
	}
}

// Causes in the ISR status (§4.1.4.5).
const (
	isrQueue  = 1
	isrConfig = 2
)

// interrupt is the virtio.Interrupt of a Transport.
type interrupt struct{ t *Transport }

func (i interrupt) Queue(q int) error {
	i.t.mu.Lock()
	v := i.t.queueVector[q]
	i.t.mu.Unlock()
	if !i.t.msix.enabled() {
		i.t.isr.Or(isrQueue) // for a driver that polls (§4.1.4.5.1)
	}
	return i.t.msix.signal(v)
}

// BindQueue implements virtio.KernelInterrupt. The ISR status is not for a
// driver that uses MSI-X, and without MSI-X no vector has a route.
func (i interrupt) BindQueue(q int, call *eventfd.EventFD) {
	i.t.mu.Lock()
	defer i.t.mu.Unlock()
	i.t.wire(q, i.t.queueVector[q], call)
}

func (i interrupt) Config() error {
	i.t.isr.Or(isrConfig)
	i.t.mu.Lock()
	v := i.t.configVector
	i.t.mu.Unlock()
	return i.t.msix.signal(v)
}

// header returns the identity of a device's function (§4.1.2.1).
func header(id virtio.DeviceID) pcibus.Header {
	return pcibus.Header{
		Vendor: 0x1af4, Device: 0x1040 + uint16(id), Revision: 1,
		SubVendor: 0x1af4, SubDevice: 0x1100, Class: class(id),
	}
}

// class returns the class code that fits a device type; nobody binds to it, but
// lspci and installers show it.
func class(id virtio.DeviceID) uint32 {
	switch id {
	case virtio.IDNet:
		return 0x020000 // Ethernet controller
	case virtio.IDBlock, virtio.IDFS:
		return 0x018000 // mass storage controller, other
	case virtio.IDConsole, virtio.IDVsock:
		return 0x078000 // communication controller, other
	case virtio.IDPmem, virtio.IDMem:
		return 0x058000 // memory controller, other
	default:
		return 0xff0000 // no class fits
	}
}
