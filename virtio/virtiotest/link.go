package virtiotest

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// Link is how a Driver reaches the device's registers.
type Link interface {
	// Open makes the device ready: transports that need set-up by firmware or
	// bus code do it here. It is called once.
	Open(o LinkOptions) error
	Core() *virtio.Core
	Status() virtio.Status
	SetStatus(virtio.Status)
	OfferedFeatures() virtio.Features
	AcceptFeatures(virtio.Features)
	NumQueues() int // as far as the driver can tell, at most want+1
	QueueMax(i int) uint16
	SetupQueue(i int, size uint16, desc, avail, used memory.GPA)
	Ring(queue int) // the doorbell, by whatever way a guest's write would take
	ReadConfig(off uint32, p []byte)
	WriteConfig(off uint32, p []byte)
	// Interrupts and ConfigInterrupts count what reached the driver. A link
	// that cannot tell queues apart counts all of them for each.
	Interrupts(queue int) uint64
	ConfigInterrupts() uint64

	state.Stateful
	Stop(context.Context) error
	Start() error
	Close() error
}

// LinkOptions is what a Link is opened with.
type LinkOptions struct {
	Device virtio.Device
	Mem    *memory.Guest
	Fail   func(error)
}

// Direct is the link without a transport: it calls virtio.Core.
func Direct() Link { return &direct{} }

type directCore = virtio.Core // embedded under a name that leaves Core free

type direct struct {
	*directCore
	queues []atomic.Uint64
	config atomic.Uint64
}

func (l *direct) Open(o LinkOptions) (err error) {
	l.queues = make([]atomic.Uint64, len(o.Device.Info().QueueSizes))
	l.directCore, err = virtio.NewCore(virtio.CoreOptions{Device: o.Device, Mem: o.Mem, Interrupt: directIRQ{l}, Fail: o.Fail})
	return err
}

type directIRQ struct{ l *direct }

func (i directIRQ) Queue(q int) error { i.l.queues[q].Add(1); return nil }
func (i directIRQ) Config() error     { i.l.config.Add(1); return nil }

func (l *direct) Core() *virtio.Core             { return l.directCore }
func (l *direct) SetStatus(s virtio.Status)      { l.directCore.SetStatus(uint8(s)) }
func (l *direct) Ring(q int)                     { l.Notify(q) }
func (l *direct) Interrupts(q int) uint64        { return l.queues[q].Load() }
func (l *direct) ConfigInterrupts() uint64       { return l.config.Load() }
func (l *direct) WriteConfig(o uint32, p []byte) { l.directCore.WriteConfig(p, uint64(o)) }

func (l *direct) ReadConfig(o uint32, p []byte) {
	fill(p)
	l.directCore.ReadConfig(p, uint64(o))
}

// fill does what the bus does before a read.
func fill(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}

func (l *direct) OfferedFeatures() virtio.Features {
	return virtio.Features(l.DeviceFeatures(0)) | virtio.Features(l.DeviceFeatures(1))<<32
}

func (l *direct) AcceptFeatures(f virtio.Features) {
	l.SetDriverFeatures(0, uint32(f))
	l.SetDriverFeatures(1, uint32(f>>32))
}

func (l *direct) SetupQueue(i int, size uint16, desc, avail, used memory.GPA) {
	l.SetQueueSize(i, size)
	for p, a := range []memory.GPA{virtio.PartDesc: desc, virtio.PartAvail: avail, virtio.PartUsed: used} {
		l.SetQueueAddr(i, virtio.RingPart(p), false, uint32(a))
		l.SetQueueAddr(i, virtio.RingPart(p), true, uint32(a>>32))
	}
	l.EnableQueue(i)
}

func (l *direct) StateVersion() uint32    { return 1 }
func (l *direct) SaveState() (any, error) { return l.directCore.SaveState() }
func (l *direct) LoadState(d state.Decoder) error {
	var s virtio.CoreState
	if err := d.Into(&s); err != nil {
		return err
	}
	return l.directCore.LoadState(s)
}

// Doorbells is a virtio.Doorbells that does in the process what KVM does in the
// kernel: Write signals the eventfd that an access matches.
type Doorbells struct {
	table atomic.Pointer[[]bell]
	// Refuse, when set, is asked before each Add: an error makes it fail.
	Refuse func(addr uint64) error
}

type bell struct {
	addr uint64
	size int
	val  uint32
	any  bool
	ev   *eventfd.EventFD
}

func newBell(addr uint64, size int, match *uint32, ev *eventfd.EventFD) bell {
	b := bell{addr: addr, size: size, any: match == nil, ev: ev}
	if match != nil {
		b.val = *match
	}
	return b
}

func (d *Doorbells) list() []bell {
	if p := d.table.Load(); p != nil {
		return *p
	}
	return nil
}

// Add registers a doorbell; one that is there already is an error, as in KVM.
// Calls of Add and Remove must not overlap.
func (d *Doorbells) Add(addr uint64, size int, match *uint32, ev *eventfd.EventFD) error {
	if d.Refuse != nil {
		if err := d.Refuse(addr); err != nil {
			return err
		}
	}
	b := newBell(addr, size, match, ev)
	for _, o := range d.list() {
		if o.addr == b.addr && (o.any || b.any || o.val == b.val) {
			return fmt.Errorf("doorbell at %#x exists", addr)
		}
	}
	next := append(append([]bell(nil), d.list()...), b)
	d.table.Store(&next)
	return nil
}

// Remove takes a doorbell away; one that is not there is an error.
func (d *Doorbells) Remove(addr uint64, size int, match *uint32, ev *eventfd.EventFD) error {
	b := newBell(addr, size, match, ev)
	var next []bell
	for _, o := range d.list() {
		if o != b {
			next = append(next, o)
		}
	}
	if len(next) == len(d.list()) {
		return fmt.Errorf("no doorbell at %#x", addr)
	}
	d.table.Store(&next)
	return nil
}

// Len returns how many doorbells are registered.
func (d *Doorbells) Len() int { return len(d.list()) }

// Write does a guest's write of n bytes: it reports whether a doorbell took it.
func (d *Doorbells) Write(addr uint64, n int, v uint32) bool {
	for _, b := range d.list() {
		if b.addr == addr && (b.size == 0 || b.size == n) && (b.any || b.val == v) {
			_ = b.ev.Signal()
			return true
		}
	}
	return false
}
