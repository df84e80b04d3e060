package virtiotest

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/bus"
	"github.com/hvctl/hvctl/internal/eventfd"
	pcibus "github.com/hvctl/hvctl/internal/pci"
	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/pci"
)

// Where the PCI link has its windows.
const (
	pciWindow32 = 0xc0000000
	pciWindow64 = 0x4000000000
	pciECAM     = 0xe0000000
	pciSlot     = 1
)

// PCI is the link through virtio/pci on a PCI bus of its own, with doorbells
// and MSI-X. It finds everything the way a driver does: by capabilities.
func PCI() Link { return &pciLink{} }

type pciLink struct {
	*pci.Transport
	root  *pcibus.Bus
	bus   bus.Bus
	bells Doorbells
	msi   MSIs

	ready                          bool   // BAR mapped, MSI-X on
	bar                            uint64 // base address
	msix                           uint64 // offset of the capability
	common, isr, device, notifyOff uint64 // addresses
	notifyMul                      uint64
}

func (l *pciLink) Open(o LinkOptions) (err error) {
	l.root = pcibus.New(pcibus.Options{
		MMIO:     &l.bus,
		Window32: memory.Span{GPA: pciWindow32, Size: 1 << 24},
		Window64: memory.Span{GPA: pciWindow64, Size: 1 << 32},
	})
	l.Transport, err = pci.New(pci.Options{
		Device: o.Device, Name: "device", Mem: o.Mem, Doorbells: &l.bells, MSI: &l.msi, Fail: o.Fail,
	})
	if err != nil {
		return err
	}
	if slot, err := l.root.Add(l.Function()); err != nil || slot != pciSlot {
		return fmt.Errorf("slot %d: %w", slot, err)
	}
	return l.bus.Add(bus.Range{Base: pciECAM, Size: pcibus.ECAMSize, Name: "ecam", Handler: l.root.ECAM()})
}

// setup does what firmware and bus code do: find the capabilities, switch
// memory decoding and MSI-X on.
func (l *pciLink) setup() {
	if l.ready {
		return
	}
	l.ready = true
	l.bar = l.cfg(0x10, 4)&^0xf | l.cfg(0x14, 4)<<32
	l.setCfg(0x04, 2, l.cfg(0x04, 2)|6)
	for at := l.cfg(0x34, 1); at != 0; at = l.cfg(at+1, 1) {
		switch id, where := l.cfg(at, 1), l.bar+l.cfg(at+8, 4); {
		case id == 0x11:
			l.msix = at
		case id != 9:
		default:
			switch l.cfg(at+3, 1) {
			case 1:
				l.common = where
			case 2:
				l.notifyOff, l.notifyMul = where, l.cfg(at+16, 4)
			case 3:
				l.isr = where
			case 4:
				l.device = where
			}
		}
	}
	table := l.bar + l.cfg(l.msix+4, 4)&^7
	n := l.cfg(l.msix+2, 2)&0x7ff + 1
	l.setCfg(l.msix+2, 2, 0xc000)
	for i := range n {
		l.store(table+16*i, 4, 0xfee00000)
		l.store(table+16*i+4, 4, 0)
		l.store(table+16*i+8, 4, i)
		l.store(table+16*i+12, 4, 0)
	}
	l.setCfg(l.msix+2, 2, 0x8000)
}

func get(p []byte) uint64 {
	var b [8]byte
	copy(b[:], p)
	return binary.LittleEndian.Uint64(b[:])
}

// cfg and setCfg are configuration cycles; load and store are memory ones.
func (l *pciLink) cfg(off uint64, n int) uint64 {
	return l.load(pciECAM+pciSlot<<15+off, n)
}

func (l *pciLink) setCfg(off uint64, n int, v uint64) {
	l.store(pciECAM+pciSlot<<15+off, n, v)
}

func (l *pciLink) load(addr uint64, n int) uint64 {
	b := make([]byte, n)
	l.bus.Read(addr, b)
	return get(b)
}

func (l *pciLink) store(addr uint64, n int, v uint64) {
	if l.bells.Write(addr, n, uint32(v)) {
		return
	}
	b := binary.LittleEndian.AppendUint64(nil, v)
	l.bus.Write(addr, b[:n])
}

func (l *pciLink) reg(off uint64, n int) uint64 {
	l.setup()
	return l.load(l.common+off, n)
}

func (l *pciLink) setReg(off uint64, n int, v uint64) {
	l.setup()
	l.store(l.common+off, n, v)
}

func (l *pciLink) Status() virtio.Status     { return virtio.Status(l.reg(0x14, 1)) }
func (l *pciLink) SetStatus(s virtio.Status) { l.setReg(0x14, 1, uint64(s)) }
func (l *pciLink) NumQueues() int            { return int(l.reg(0x12, 2)) }
func (l *pciLink) ConfigInterrupts() uint64  { return l.msi.Count(0) }
func (l *pciLink) Interrupts(q int) uint64   { return l.msi.Count(uint32(1 + q)) }

func (l *pciLink) OfferedFeatures() (f virtio.Features) {
	for sel := range uint64(2) {
		l.setReg(0, 4, sel)
		f |= virtio.Features(l.reg(4, 4)) << (32 * sel)
	}
	return f
}

func (l *pciLink) AcceptFeatures(f virtio.Features) {
	for sel := range uint64(2) {
		l.setReg(8, 4, sel)
		l.setReg(0xc, 4, uint64(uint32(f>>(32*sel))))
	}
	l.setReg(0x10, 2, 0) // configuration changes on vector 0
}

func (l *pciLink) QueueMax(i int) uint16 {
	l.setReg(0x16, 2, uint64(i))
	return uint16(l.reg(0x18, 2))
}

func (l *pciLink) SetupQueue(i int, size uint16, desc, avail, used memory.GPA) {
	l.setReg(0x16, 2, uint64(i))
	l.setReg(0x18, 2, uint64(size))
	l.setReg(0x1a, 2, uint64(1+i))
	for n, a := range []memory.GPA{desc, avail, used} {
		l.setReg(0x20+8*uint64(n), 4, uint64(uint32(a)))
		l.setReg(0x24+8*uint64(n), 4, uint64(a>>32))
	}
	l.setReg(0x1c, 2, 1)
}

// Ring takes the doorbell's address from queue_notify_off, as a driver must.
func (l *pciLink) Ring(q int) {
	l.setReg(0x16, 2, uint64(q))
	l.store(l.notifyOff+l.notifyMul*l.reg(0x1e, 2), 2, uint64(q))
}

func (l *pciLink) ReadConfig(off uint32, p []byte) {
	l.setup()
	if fill(p); l.device != 0 {
		l.bus.Read(l.device+uint64(off), p)
	}
}

func (l *pciLink) WriteConfig(off uint32, p []byte) {
	l.setup()
	if l.device != 0 {
		l.bus.Write(l.device+uint64(off), p)
	}
}

// LoadState finds the structures again, unless the state has them out of reach.
func (l *pciLink) LoadState(d state.Decoder) error {
	if err := l.Transport.LoadState(d); err != nil {
		return err
	}
	l.ready = false
	return nil
}

// MSIs is a pci.MSIAllocator that counts what is delivered, by message data.
type MSIs struct {
	mu     sync.Mutex // guards counts and bound
	counts map[uint32]uint64
	Routes atomic.Uint64 // calls of Route
	Masks  atomic.Uint64 // calls of Mask
	Open   atomic.Int64  // made, not closed
	bound  map[*eventfd.EventFD]*msi
}

// NewMSI makes one interrupt.
func (m *MSIs) NewMSI() (pci.MSI, error) {
	m.Open.Add(1)
	return &msi{m: m}, nil
}

// Count returns how many messages with data were delivered.
func (m *MSIs) Count(data uint32) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts[data]
}

// Leads returns the data of the message that the kernel would deliver for
// signals of ev; ok is false when it would deliver none.
func (m *MSIs) Leads(ev *eventfd.EventFD) (data uint32, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.bound[ev]; i != nil {
		if p := i.data.Load(); p != nil {
			return *p, true
		}
	}
	return 0, false
}

// Bound returns how many eventfds are bound, whether or not there is a route.
func (m *MSIs) Bound() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.bound)
}

type msi struct {
	m    *MSIs
	data atomic.Pointer[uint32]
}

func (i *msi) Route(_ uint64, data uint32) error {
	i.m.Routes.Add(1)
	i.data.Store(&data)
	return nil
}

func (i *msi) Mask() error {
	i.m.Masks.Add(1)
	i.data.Store(nil)
	return nil
}

func (i *msi) Signal() error {
	if p := i.data.Load(); p != nil {
		i.m.mu.Lock()
		defer i.m.mu.Unlock()
		if i.m.counts == nil {
			i.m.counts = map[uint32]uint64{}
		}
		i.m.counts[*p]++
	}
	return nil
}

// Bind keeps the books only: what waits on ev signals, as it does wherever a
// kernel refuses.
func (i *msi) Bind(ev *eventfd.EventFD) error {
	i.m.mu.Lock()
	defer i.m.mu.Unlock()
	if i.m.bound[ev] != nil {
		return fmt.Errorf("%w: eventfd is bound twice", unix.EBUSY) // as KVM says
	}
	if i.m.bound == nil {
		i.m.bound = map[*eventfd.EventFD]*msi{}
	}
	i.m.bound[ev] = i
	return nil
}

// Unbind undoes Bind.
func (i *msi) Unbind(ev *eventfd.EventFD) error {
	i.m.mu.Lock()
	defer i.m.mu.Unlock()
	if i.m.bound[ev] == i {
		delete(i.m.bound, ev)
	}
	return nil
}

func (i *msi) Close() error {
	i.m.Open.Add(-1)
	return nil
}
