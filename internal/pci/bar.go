package pci

import (
	"encoding/binary"
	"errors"

	"github.com/hvctl/hvctl/internal/bus"
)

const (
	barType64   = 0x4
	barPrefetch = 0x8
	barFlags    = 0xf
)

// BAR describes one 64-bit memory BAR.
type BAR struct {
	Size         uint64 // bytes, a power of two, at least 4096
	Prefetchable bool
	Handler      bus.Handler // accesses, relative to the BAR
	// Moved is told where the BAR is after each change; mapped is false when
	// the guest switched decoding off. For what has to follow it (doorbells).
	// If it returns an error, the change is undone: Moved was as if not called
	// and the BAR answers where it did before. May be nil. It runs under the
	// function's lock and may not call the function.
	Moved func(base uint64, mapped bool) error
}

// region is a BAR with its place. The address in configuration space is what
// the guest wrote; mapped and base are what is decoded.
type region struct {
	BAR
	index  int
	mapped bool
	base   uint64
}

// reg returns the offset of its low register.
func (r *region) reg() int { return regBAR0 + 4*r.index }

// remapAll makes every BAR follow the command register. f.mu is held.
func (f *Function) remapAll() {
	for _, r := range f.bars {
		f.remap(r)
	}
}

// remap makes what is decoded follow what the guest wrote. Where that is not
// possible (the guest is sizing the BAR, has written only half of an address,
// or wants a place that is taken or outside the bridge's windows) the BAR stays
// where it was until a later write makes sense. f.mu is held.
func (f *Function) remap(r *region) {
	if f.root == nil {
		return
	}
	want := f.cfg[regCommand]&commandMemory != 0
	base := binary.LittleEndian.Uint64(f.cfg[r.reg():]) &^ barFlags
	if want && !f.root.decodes(base, r.Size) {
		if !r.mapped {
			return
		}
		base = r.base
	}
	if want == r.mapped && (!want || base == r.base) {
		return
	}
	if err := f.move(r, base, want); err != nil {
		f.root.notMoved(f.log, "bar", r.index, "from", r.base, "to", base, "err", err)
	}
}

// move changes the MMIO bus, then tells the owner; if either fails everything is
// as before.
func (f *Function) move(r *region, base uint64, want bool) error {
	mmio := f.root.mmio
	wasBase, was := r.base, r.mapped
	var err error
	switch {
	case was && want:
		err = mmio.Move(wasBase, base)
	case want:
		err = mmio.Add(f.rangeOf(r, base))
	default:
		mmio.Remove(wasBase)
	}
	if err != nil {
		return err
	}
	if r.Moved != nil {
		err = r.Moved(base, want)
	}
	if err == nil {
		r.base, r.mapped = base, want
		return nil
	}
	switch {
	case was && want:
		return errors.Join(err, mmio.Move(base, wasBase))
	case want:
		mmio.Remove(base)
		return err
	default:
		return errors.Join(err, mmio.Add(f.rangeOf(r, wasBase)))
	}
}
