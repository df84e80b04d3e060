package memory

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// word returns the aligned 32-bit word that holds the size bytes at a, and the
// bit position of a in it.
func (g *Guest) word(a GPA, size uint64) (p *uint32, shift uint, r *Region, off uint64, err error) {
	if uint64(a)%size != 0 {
		return nil, 0, nil, 0, fmt.Errorf("%w: %d-byte word at %v", ErrMisaligned, size, a)
	}
	r, off, err = g.reach(a, size)
	if err != nil {
		return nil, 0, nil, 0, err
	}
	// SAFETY: off+size is inside r.Bytes (find), r.Bytes is page aligned and a
	// multiple of the page size, so the word at off&^3 is inside it and
	// aligned; the mapping is not Go memory and outlives the call (Close).
	p = (*uint32)(unsafe.Pointer(&r.Bytes[off&^3]))
	return p, uint(off&3) * 8, r, off, nil
}

// LoadUint16 loads a little-endian word that the guest may be storing: one
// untorn load that later loads cannot pass (acquire). a must be a multiple of
// 2. Errors wrap ErrOutOfRange or ErrMisaligned.
func (g *Guest) LoadUint16(a GPA) (uint16, error) {
	p, shift, _, _, err := g.word(a, 2)
	if err != nil {
		return 0, err
	}
	return uint16(atomic.LoadUint32(p) >> shift), nil
}

// LoadUint32 is LoadUint16 for four bytes; a must be a multiple of 4.
func (g *Guest) LoadUint32(a GPA) (uint32, error) {
	p, _, _, _, err := g.word(a, 4)
	if err != nil {
		return 0, err
	}
	return atomic.LoadUint32(p), nil
}

// LoadUint64 is LoadUint16 for eight bytes; a must be a multiple of 8.
func (g *Guest) LoadUint64(a GPA) (uint64, error) {
	p, _, _, _, err := g.word(a, 8)
	if err != nil {
		return 0, err
	}
	// SAFETY: word checked alignment and range for 8 bytes.
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(p))), nil
}

// StoreUint16 stores a little-endian word that the guest may be loading and
// marks its page dirty. Everything stored before is visible first, and the
// store is visible before any later load (a full fence: VIRTIO 1.2 §2.7.7.2
// needs it between used.idx and used_event). The other half of the 32-bit
// word keeps what the guest stores there meanwhile. Errors wrap ErrOutOfRange
// or ErrMisaligned.
func (g *Guest) StoreUint16(a GPA, v uint16) error {
	p, shift, r, off, err := g.word(a, 2)
	if err != nil {
		return err
	}
	for {
		old := atomic.LoadUint32(p)
		if atomic.CompareAndSwapUint32(p, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			break
		}
	}
	g.dirty.setBytes(r.Offset+off, 2)
	return nil
}

// MarkVecDirty records that the VMM wrote the first n bytes of v, or all of v
// when it is shorter. Call it after the write. v must view RAM of g.
func (g *Guest) MarkVecDirty(v Vec, n int) {
	base := uintptr(unsafe.Pointer(unsafe.SliceData(g.mem)))
	for i := 0; n > 0 && i < len(v.bufs); i++ {
		b := v.buffer(i)
		if len(b) > n {
			b = b[:n]
		}
		n -= len(b)
		// SAFETY: only the number is used: the distance of two pointers into
		// one mapping that does not move. setBytes ignores what lies outside.
		off := uintptr(unsafe.Pointer(unsafe.SliceData(b))) - base
		g.dirty.setBytes(uint64(off), uint64(len(b)))
	}
}

// ReleaseVec is Release of every buffer of v, which must view RAM of g.
func (g *Guest) ReleaseVec(v Vec) error {
	base := uintptr(unsafe.Pointer(unsafe.SliceData(g.mem)))
	for i := range v.bufs {
		b := v.buffer(i)
		// SAFETY: only the number is used, as in MarkVecDirty.
		off := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b))) - base)
		start, end := g.wholePages(off, uint64(len(b)))
		if off > uint64(len(g.mem)) || end > uint64(len(g.mem)) {
			return fmt.Errorf("%w: a buffer that is no guest RAM", ErrOutOfRange)
		}
		if err := g.giveBack(start, end); err != nil {
			return err
		}
	}
	return nil
}

// HVA returns the region's address in this process, for the kernel's memory
// slots: that of Slot. It stays valid until the Guest is closed.
func (r Region) HVA() uintptr {
	// SAFETY: the mapping is not Go memory; it does not move.
	return uintptr(unsafe.Pointer(unsafe.SliceData(r.Slot())))
}
