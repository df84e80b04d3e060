package pci

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/hvctl/hvctl/internal/bus"
)

// Registers of a type 0 configuration header (PCI 3.0, 6.1).
const (
	regVendor    = 0x00
	regDevice    = 0x02
	regCommand   = 0x04
	regStatus    = 0x06
	regRevision  = 0x08
	regClass     = 0x09 // three bytes
	regBAR0      = 0x10
	regSubVendor = 0x2c
	regSubDevice = 0x2e
	regCapPtr    = 0x34
	regLine      = 0x3c
	firstCap     = 0x40

	commandMemory  = 1 << 1
	commandMaster  = 1 << 2
	commandINTxOff = 1 << 10
	statusCapList  = 1 << 4

	// ConfigSize is what a function has of configuration space, in bytes.
	ConfigSize = 256
)

// Header is what identifies a function to its driver.
type Header struct {
	Vendor, Device       uint16
	SubVendor, SubDevice uint16
	Class                uint32 // base class, sub-class, interface: 0xBBSSII
	Revision             uint8
}

// Function is one PCI function. Build it (AddBAR, AddCapability), then add it to
// a Bus; after that its methods may be called from any vCPU thread.
type Function struct {
	name string
	log  *slog.Logger
	hook []hook // by capability; constant once on a bus
	caps int    // offset of the next capability

	mu   sync.Mutex // guards what follows; nothing but BAR moves is called under it
	cfg  [ConfigSize]byte
	mask [ConfigSize]byte // bits the guest can write
	bars []*region
	root *Bus // nil until added
}

// hook watches the bytes of one capability.
type hook struct {
	at, n int
	c     CapHook
}

// CapHook is called for accesses to a capability's body; off is relative to the
// capability. It is called without any lock of the function held, so calls may
// overlap and come out of order: ask Function.Config for the present bytes.
type CapHook interface {
	// BeforeRead lets the owner refresh bytes with Function.SetConfig.
	BeforeRead(off, n int)
	// AfterWrite says that the guest wrote n bytes at off; read-only bits have
	// kept their value.
	AfterWrite(off, n int)
}

// NewFunction makes a function without BARs and capabilities. name shows in
// messages and in the bus's list of ranges; log may be nil.
func NewFunction(name string, h Header, log *slog.Logger) *Function {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &Function{name: name, log: log, caps: firstCap}
	le := binary.LittleEndian
	le.PutUint16(f.cfg[regVendor:], h.Vendor)
	le.PutUint16(f.cfg[regDevice:], h.Device)
	f.cfg[regRevision] = h.Revision
	f.cfg[regClass], f.cfg[regClass+1], f.cfg[regClass+2] = byte(h.Class), byte(h.Class>>8), byte(h.Class>>16)
	le.PutUint16(f.cfg[regSubVendor:], h.SubVendor)
	le.PutUint16(f.cfg[regSubDevice:], h.SubDevice)
	le.PutUint16(f.mask[regCommand:], commandMemory|commandMaster|commandINTxOff)
	f.mask[regLine] = 0xff // scratch for system software
	return f
}

// AddCapability appends a capability with the given body, which follows the id
// and next bytes; mask has a bit set for each one the guest can write and may
// be shorter than the body. It returns the capability's offset. h may be nil.
func (f *Function) AddCapability(id uint8, body, mask []byte, h CapHook) (int, error) {
	at := f.caps
	if at+2+len(body) > ConfigSize || len(mask) > len(body) || f.root != nil {
		return 0, fmt.Errorf("%w: %s: capability %#x does not fit", ErrDesign, f.name, id)
	}
	prev := regCapPtr
	for f.cfg[prev] != 0 {
		prev = int(f.cfg[prev]) + 1
	}
	f.cfg[prev] = byte(at)
	f.cfg[regStatus] |= statusCapList
	f.cfg[at] = id
	copy(f.cfg[at+2:], body)
	copy(f.mask[at+2:], mask)
	f.caps = (at + 2 + len(body) + 3) &^ 3
	if h != nil {
		f.hook = append(f.hook, hook{at, 2 + len(body), h})
	}
	return at, nil
}

// Config copies configuration space at off into p.
func (f *Function) Config(off int, p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	copy(p, f.cfg[off:])
}

// SetConfig stores p at off, read-only bits included: the device's own writes.
func (f *Function) SetConfig(off int, p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	copy(f.cfg[off:], p)
}

// valid reports whether an access is a configuration cycle of this function.
func valid(off uint64, n int) bool {
	return (n == 1 || n == 2 || n == 4) && off%uint64(n) == 0 && off < ConfigSize
}

// ReadConfig is the guest's read. Impossible ones leave p as it is.
func (f *Function) ReadConfig(off uint64, p []byte) {
	if !valid(off, len(p)) {
		return
	}
	f.eachHook(int(off), len(p), func(h hook, rel int) { h.c.BeforeRead(rel, len(p)) })
	f.Config(int(off), p)
}

// WriteConfig is the guest's write.
func (f *Function) WriteConfig(off uint64, p []byte) {
	if !valid(off, len(p)) {
		return
	}
	f.store(int(off), p)
	f.eachHook(int(off), len(p), func(h hook, rel int) { h.c.AfterWrite(rel, len(p)) })
}

func (f *Function) eachHook(off, n int, do func(h hook, rel int)) {
	for _, h := range f.hook {
		if off < h.at+h.n && h.at < off+n {
			do(h, off-h.at)
		}
	}
}

// store writes what the mask allows and lets the BARs follow.
func (f *Function) store(off int, p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, b := range p {
		m := f.mask[off+i]
		f.cfg[off+i] = f.cfg[off+i]&^m | b&m
	}
	switch {
	case off < regCommand+2 && off+len(p) > regCommand:
		f.remapAll()
	case off >= regBAR0 && off < regBAR0+24:
		for _, b := range f.bars {
			if reg := b.reg(); off >= reg && off < reg+8 {
				f.remap(b)
			}
		}
	}
}

// AddBAR gives the function the 64-bit memory BAR at index (0, 2 or 4; it takes
// two registers). Preconditions: not yet on a bus.
func (f *Function) AddBAR(index int, b BAR) error {
	if index < 0 || index > 4 || index%2 != 0 || f.root != nil || b.Handler == nil ||
		b.Size < 4096 || b.Size&(b.Size-1) != 0 || b.Size > 1<<40 ||
		slices.ContainsFunc(f.bars, func(r *region) bool { return r.index == index }) {
		return fmt.Errorf("%w: %s: BAR %d of %#x bytes", ErrDesign, f.name, index, b.Size)
	}
	r := &region{BAR: b, index: index}
	low := uint64(barType64)
	if b.Prefetchable {
		low |= barPrefetch
	}
	binary.LittleEndian.PutUint64(f.cfg[r.reg():], low)
	binary.LittleEndian.PutUint64(f.mask[r.reg():], ^(b.Size - 1))
	f.bars = append(f.bars, r)
	return nil
}

// name of a BAR's range on the MMIO bus.
func (f *Function) rangeOf(r *region, base uint64) bus.Range {
	return bus.Range{Base: base, Size: r.Size, Name: fmt.Sprintf("%s BAR %d", f.name, r.index), Handler: r.Handler}
}
