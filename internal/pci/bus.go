package pci

import (
	"cmp"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hvctl/hvctl/internal/bus"
	"github.com/hvctl/hvctl/memory"
)

const (
	// Slots is the number of devices on a bus, the host bridge included.
	Slots = 32
	// ECAMSize is the ECAM window of one bus, in bytes.
	ECAMSize = 1 << 20
)

// Options says what bus to make.
type Options struct {
	// MMIO is where BARs appear.
	MMIO *bus.Bus
	// Window32 and Window64 are the address ranges that the host bridge
	// decodes, the second one above 4 GiB; either may be empty. BARs are put
	// in the second one while there is room.
	Window32, Window64 memory.Span
	Log                *slog.Logger // nil discards
}

// Bus is a root bus, segment 0, number 0. Slot 0 is the host bridge.
type Bus struct {
	mmio    *bus.Bus
	windows [2]memory.Span // in the order they are filled
	log     *slog.Logger
	warned  atomic.Int64 // time of the last warning, ns

	slots [Slots]atomic.Pointer[Function]

	mu     sync.Mutex    // guards what follows, and adding functions
	filled [2]uint64     // bytes used of each window
	homes  [Slots][]home // of the BARs that a slot had last
	index  uint32        // address register of the port mechanism
}

// New makes a bus with a host bridge and nothing else.
func New(o Options) *Bus {
	b := &Bus{mmio: o.MMIO, windows: [2]memory.Span{o.Window64, o.Window32}}
	b.log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	bridge := NewFunction("host bridge", Header{Vendor: 0x1b36, Device: 0x0008, Class: 0x060000}, b.log)
	bridge.root = b
	b.slots[0].Store(bridge)
	return b
}

// home is where a BAR was put. The next function in its slot gets it again if it
// fits, or else whoever plugs often would use up the window.
type home struct{ base, size uint64 }

// Add puts f in the lowest free slot, gives its BARs addresses and returns the
// slot. Decoding is off until the guest switches it on. Errors wrap ErrFull.
func (b *Bus) Add(f *Function) (slot int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for slot = range b.slots {
		if b.slots[slot].Load() == nil {
			return slot, b.place(f, slot)
		}
	}
	return 0, fmt.Errorf("%w: all %d slots are in use", ErrFull, Slots)
}

// AddAt is Add for one slot. Errors wrap ErrFull, also when it is in use or not of
// the bus. It may be called while the guest runs.
func (b *Bus) AddAt(f *Function, slot int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if slot <= 0 || slot >= Slots || b.slots[slot].Load() != nil {
		return fmt.Errorf("%w: slot %d is in use, or there is none", ErrFull, slot)
	}
	return b.place(f, slot)
}

func (b *Bus) place(f *Function, slot int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	filled, last := b.filled, b.homes[slot]
	var homes []home
	for i, r := range f.bars {
		var base uint64
		ok := i < len(last) && last[i].size == r.Size
		if ok {
			base = last[i].base
		} else if base, ok = b.alloc(&filled, r.Size); !ok {
			return fmt.Errorf("%w: no room for %#x bytes of %s", ErrFull, r.Size, f.name)
		}
		homes = append(homes, home{base, r.Size})
		for i := range 8 {
			at := r.reg() + i
			f.cfg[at] = f.cfg[at]&^f.mask[at] | byte(base>>(8*i))&f.mask[at]
		}
	}
	b.filled, b.homes[slot] = filled, homes
	f.root = b
	b.slots[slot].Store(f)
	return nil
}

// alloc takes an aligned piece of the first window that has one.
func (b *Bus) alloc(filled *[2]uint64, size uint64) (base uint64, ok bool) {
	for i, w := range b.windows {
		start := (uint64(w.GPA) + filled[i] + size - 1) &^ (size - 1)
		end := uint64(w.GPA) + w.Size
		if start >= uint64(w.GPA) && start < end && size <= end-start {
			filled[i] = start + size - uint64(w.GPA)
			return start, true
		}
	}
	return 0, false
}

// Remove takes the function out of slot: its BARs are no longer decoded and its
// configuration space reads as all ones. The host bridge cannot be removed.
func (b *Bus) Remove(slot int) {
	if slot <= 0 || slot >= Slots {
		return
	}
	f := b.slots[slot].Swap(nil)
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.bars {
		if r.mapped {
			b.mmio.Remove(r.base)
			r.mapped = false
			if r.Moved != nil {
				_ = r.Moved(r.base, false) // nothing to undo it for
			}
		}
	}
	f.root = nil
}

// decodes reports whether a BAR may be at base: the bridge passes on only what
// is in its windows.
func (b *Bus) decodes(base, size uint64) bool {
	for _, w := range b.windows {
		if off := base - uint64(w.GPA); base >= uint64(w.GPA) && off < w.Size && size <= w.Size-off {
			return true
		}
	}
	return false
}

// notMoved logs a BAR that a guest put where it cannot be, at most once in ten
// seconds.
func (b *Bus) notMoved(log *slog.Logger, args ...any) {
	now, last := time.Now().UnixNano(), b.warned.Load()
	if (last == 0 || now-last > int64(10*time.Second)) && b.warned.CompareAndSwap(last, now) {
		log.Warn("BAR not moved", args...)
	}
}

// function returns what answers for a bus, device and function number.
func (b *Bus) function(busNo, dev, fn uint64) *Function {
	if busNo != 0 || dev >= Slots || fn != 0 {
		return nil
	}
	return b.slots[dev].Load()
}
