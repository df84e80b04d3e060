package memory

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// find is locate for who uses the memory: of a pluggable region the guest has to have
// that.
func (g *Guest) find(a GPA, n uint64) (*Region, uint64, error) {
	r, off, err := g.locate(a, n)
	if err == nil && r.plug != nil && !r.plug.holds(off, n) {
		return nil, 0, fmt.Errorf("%w: %v+%#x, which the guest lacks", ErrOutOfRange, a, n)
	}
	return r, off, err
}

// locate returns the region that holds all of [a, a+n) and the offset of a in it. n is
// compared before anything is added, so nothing can wrap.
func (g *Guest) locate(a GPA, n uint64) (*Region, uint64, error) {
	for i := range g.regions {
		r := &g.regions[i]
		if a >= r.GPA && uint64(a-r.GPA) < r.Size {
			if off := uint64(a - r.GPA); n <= r.Size-off {
				return r, off, nil
			}
			break
		}
	}
	return nil, 0, fmt.Errorf("%w: %v+%#x", ErrOutOfRange, a, n)
}

// Slice returns the host's view of n bytes at a, which must lie in one region.
// It is for reading: the guest may change the bytes at any time, and writes
// through it are not marked dirty. The view is valid until Close. Errors wrap
// ErrOutOfRange.
func (g *Guest) Slice(a GPA, n uint64) ([]byte, error) {
	r, off, err := g.reach(a, n)
	if err != nil {
		return nil, err
	}
	return r.Bytes[off : off+n : off+n], nil
}

// HVA returns the address in this process of n bytes at a, which must lie in
// one region, for the kernel (vhost). It stays valid until Close. Errors wrap
// ErrOutOfRange.
func (g *Guest) HVA(a GPA, n uint64) (uintptr, error) {
	r, off, err := g.find(a, n)
	if err != nil {
		return 0, err
	}
	return r.HVA() + uintptr(off), nil
}

// ReadAt copies len(p) bytes at a into p. Errors wrap ErrOutOfRange; then p is
// as it was.
func (g *Guest) ReadAt(p []byte, a GPA) error {
	b, err := g.Slice(a, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(p, b)
	return nil
}

// WriteAt copies p to a and marks the pages dirty. It is the way to write
// outside a descriptor chain. Errors wrap ErrOutOfRange; then nothing was
// written.
func (g *Guest) WriteAt(p []byte, a GPA) error {
	r, off, err := g.reach(a, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(r.Bytes[off:], p)
	g.dirty.setBytes(r.Offset+off, uint64(len(p)))
	return nil
}

// MarkDirty records that the VMM wrote n bytes at a. Call it after the write,
// never before: a harvest in between would lose the page. KVM's own log sees
// only the guest's writes. Ranges outside RAM are ignored.
func (g *Guest) MarkDirty(a GPA, n uint64) {
	if r, off, err := g.find(a, n); err == nil {
		g.dirty.setBytes(r.Offset+off, n)
	}
}

// Discard gives the host back the pages that lie wholly inside [a, a+n); the
// guest reads zeroes there afterwards. With huge pages only whole huge pages
// are given back. Of a pluggable region the guest need not have them. Errors wrap
// ErrOutOfRange or name the system call.
func (g *Guest) Discard(a GPA, n uint64) error {
	r, off, err := g.locate(a, n)
	if err != nil {
		return err
	}
	start, end := g.wholePages(r.Offset+off, n)
	if start >= end {
		return nil
	}
	if g.fd < 0 { // the page of the image would come back
		clear(g.mem[start:end])
		g.dirty.setBytes(start, end-start)
		return nil
	}
	return g.giveBack(start, end)
}

// Release is Discard of pages whose content means nothing to the guest any
// more: afterwards they read as zeroes, or, where RAM was made from an Image, as
// that has them. It never makes a page.
func (g *Guest) Release(a GPA, n uint64) error {
	r, off, err := g.find(a, n)
	if err != nil {
		return err
	}
	start, end := g.wholePages(r.Offset+off, n)
	return g.giveBack(start, end)
}

// ReleasesZeroes tells whether what was released reads as zeroes.
func (g *Guest) ReleasesZeroes() bool { return g.fd >= 0 }

// wholePages returns the pages that lie inside n bytes at an offset in the
// mapping; none when end is not above start.
func (g *Guest) wholePages(off, n uint64) (start, end uint64) {
	unit := uint64(PageSize)
	if g.huge {
		unit = HugePageSize
	}
	return (off + unit - 1) &^ (unit - 1), (off + n) &^ (unit - 1)
}

// giveBack frees the pages of a range of the mapping. What is there afterwards is
// new content, so they are dirty, once it is there.
func (g *Guest) giveBack(start, end uint64) error {
	if start >= end {
		return nil
	}
	if g.fd < 0 {
		if err := unix.Madvise(g.mem[start:end], unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("release %d bytes of guest RAM: %w", end-start, os.NewSyscallError("madvise", err))
		}
	} else if err := unix.Fallocate(g.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(start), int64(end-start)); err != nil {
		return fmt.Errorf("discard %d bytes of guest RAM: %w", end-start, os.NewSyscallError("fallocate", err))
	}
	g.dirty.setBytes(start, end-start)
	return nil
}
