// Package bus routes port I/O and MMIO exits to the device model that claimed
// the address range.
//
// A Bus is filled while the machine is built and looked up from the vCPU
// threads. Ranges may also move later (a PCI BAR is reprogrammed), so lookups
// read an immutable table that every change replaces as a whole.
package bus

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
)

// Handler is a device's side of an address range. Both methods are called on
// vCPU threads, several at a time, with offsets relative to the start of the
// range; len(data) is 1 to 8 and off+len(data) never passes the end of the
// range. Neither may block on I/O. Every access must be answered: a handler
// that has nothing to say leaves data as it found it (all ones for reads).
type Handler interface {
	ReadAt(off uint64, data []byte)
	WriteAt(off uint64, data []byte)
}

// ErrOverlap is wrapped by Add and Move when a range touches one that is
// already claimed.
var ErrOverlap = errors.New("address range already claimed")

// Range is one claimed address range.
type Range struct {
	Base, Size uint64
	Name       string // for messages and `hvctl inspect`
	Handler    Handler
}

func (r Range) end() uint64 { return r.Base + r.Size }

// Bus is an address space. The zero value is empty and ready to use. All
// methods may be called concurrently.
type Bus struct {
	mu    sync.Mutex // serializes writers; readers use the table alone
	table atomic.Pointer[[]Range]
}

func (b *Bus) ranges() []Range {
	if t := b.table.Load(); t != nil {
		return *t
	}
	return nil
}

// Add claims a range. It returns an error wrapping ErrOverlap when any byte of
// it is taken, and an error when the range is empty or wraps.
func (b *Bus) Add(r Range) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	next, err := insert(b.ranges(), r)
	if err != nil {
		return err
	}
	b.table.Store(&next)
	return nil
}

// Remove gives up the range that starts at base; it reports whether there was
// one.
func (b *Bus) Remove(base uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	next, ok := without(b.ranges(), base)
	if ok {
		b.table.Store(&next)
	}
	return ok
}

// Move re-bases the range at from to to in one step: a concurrent lookup sees
// it at one of the two, never at both or neither. On error nothing changed.
func (b *Bus) Move(from, to uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.ranges()
	i := slices.IndexFunc(old, func(r Range) bool { return r.Base == from })
	if i < 0 {
		return fmt.Errorf("no range starts at %#x", from)
	}
	r := old[i]
	r.Base = to
	rest, _ := without(old, from)
	next, err := insert(rest, r)
	if err != nil {
		return err
	}
	b.table.Store(&next)
	return nil
}

// Ranges returns the claimed ranges in address order.
func (b *Bus) Ranges() []Range { return slices.Clone(b.ranges()) }

// Name returns the name of the range that holds n bytes at addr; empty: nobody
// claimed them.
func (b *Bus) Name(addr uint64, n int) string {
	r, _ := b.find(addr, n)
	return r.Name
}

// Read answers a read of len(data) bytes at addr. data is filled with ones
// first, so an address nobody claimed, or an access that straddles the end of
// a range, reads as all ones, as on real hardware. It reports whether a
// handler was found.
func (b *Bus) Read(addr uint64, data []byte) bool {
	for i := range data {
		data[i] = 0xff
	}
	r, ok := b.find(addr, len(data))
	if ok {
		r.Handler.ReadAt(addr-r.Base, data)
	}
	return ok
}

// Write passes a write to its handler, or drops it when nobody claimed the
// address. It reports whether a handler was found.
func (b *Bus) Write(addr uint64, data []byte) bool {
	r, ok := b.find(addr, len(data))
	if ok {
		r.Handler.WriteAt(addr-r.Base, data)
	}
	return ok
}

func (b *Bus) find(addr uint64, n int) (*Range, bool) {
	t := b.ranges()
	i := sort.Search(len(t), func(i int) bool { return t[i].Base > addr }) - 1
	if i < 0 || addr-t[i].Base >= t[i].Size || uint64(n) > t[i].Size-(addr-t[i].Base) {
		return nil, false
	}
	return &t[i], true
}

func insert(t []Range, r Range) ([]Range, error) {
	if r.Size == 0 || r.end()-1 < r.Base {
		return nil, fmt.Errorf("range %q at %#x has impossible size %#x", r.Name, r.Base, r.Size)
	}
	i := sort.Search(len(t), func(i int) bool { return t[i].Base >= r.Base })
	if i > 0 && t[i-1].end()-1 >= r.Base {
		return nil, fmt.Errorf("%w: %q at %#x+%#x meets %q at %#x", ErrOverlap, r.Name, r.Base, r.Size, t[i-1].Name, t[i-1].Base)
	}
	if i < len(t) && r.end()-1 >= t[i].Base {
		return nil, fmt.Errorf("%w: %q at %#x+%#x meets %q at %#x", ErrOverlap, r.Name, r.Base, r.Size, t[i].Name, t[i].Base)
	}
	return slices.Insert(slices.Clone(t), i, r), nil
}

func without(t []Range, base uint64) ([]Range, bool) {
	i := slices.IndexFunc(t, func(r Range) bool { return r.Base == base })
	if i < 0 {
		return t, false
	}
	return slices.Delete(slices.Clone(t), i, i+1), true
}
