package memory

import (
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Pluggable is the last region of RAM, of which the guest has some blocks and lacks
// the others: a device (virtio-mem) gives and takes them. It is mapped twice. The
// region's Bytes, through which this process reaches it, are always accessible, so
// that a device that is still at work on a block that has just been taken does no
// harm; new accesses are refused. The other mapping is what KVM and vhost are given:
// a block that the guest lacks is inaccessible there, so that neither makes pages.
//
// All methods may be called concurrently; a block is changed by one at a time.
type Pluggable struct {
	g     *Guest
	at    GPA
	off   uint64 // of the region, in the file and in g.mem
	block uint64 // bytes
	n     uint64 // blocks
	view  []byte // the mapping for the kernel

	mu   sync.Mutex      // held while blocks change
	have []atomic.Uint64 // bit n: the guest has block n
}

// mapPluggable makes the last region of g one that is given in blocks.
func (g *Guest) mapPluggable(block uint64) error {
	r := &g.regions[len(g.regions)-1]
	p := &Pluggable{g: g, at: r.GPA, off: r.Offset, block: block, n: r.Size / block}
	p.have = make([]atomic.Uint64, (p.n+63)/64)
	view, err := reserve(r.Size)
	if err != nil {
		return err
	}
	if err := mapAt(view, g.fd, int64(r.Offset), unix.PROT_NONE, unix.MAP_SHARED|unix.MAP_NORESERVE); err != nil {
		_ = unmap(view)
		return fmt.Errorf("map %d MiB of pluggable RAM: %w", r.Size>>20, err)
	}
	_ = unix.Madvise(view, unix.MADV_DONTDUMP) // as in New
	p.view, r.plug, g.plug = view, p, p
	return nil
}

// Pluggable returns what Options.Pluggable asked for, or nil.
func (g *Guest) Pluggable() *Pluggable { return g.plug }

// Pluggable tells whether the guest has only some blocks of r, at times none.
func (r Region) Pluggable() bool { return r.plug != nil }

// Slot is what the kernel is given as r, as a memory slot or for vhost: an access
// to what the guest lacks fails there. Only its address is of use.
func (r Region) Slot() []byte {
	if r.plug != nil {
		return r.plug.view
	}
	return r.Bytes
}

// Span is where the region lies.
func (p *Pluggable) Span() Span { return Span{p.at, p.n * p.block} }

// BlockSize is the unit of giving and taking, in bytes.
func (p *Pluggable) BlockSize() uint64 { return p.block }

// Plugged is how much of the region the guest has, in bytes.
func (p *Pluggable) Plugged() (bytes uint64) {
	for i := range p.have {
		bytes += uint64(bits.OnesCount64(p.have[i].Load())) * p.block
	}
	return bytes
}

// Count returns how many of n blocks from first on the guest has. They must lie in
// the region.
func (p *Pluggable) Count(first, n uint64) (have uint64) {
	p.words(first, n, func(w *atomic.Uint64, mask uint64) { have += uint64(bits.OnesCount64(w.Load() & mask)) })
	return have
}

// words calls f with the words that hold n blocks from first on.
func (p *Pluggable) words(first, n uint64, f func(w *atomic.Uint64, mask uint64)) {
	for n > 0 {
		k := min(64-first%64, n)
		f(&p.have[first/64], ^uint64(0)>>(64-k)<<(first%64))
		first, n = first+k, n-k
	}
}

// holds tells whether the guest has all blocks that n bytes at an offset touch.
func (p *Pluggable) holds(off, n uint64) bool {
	first, last := off/p.block, (off+max(n, 1)-1)/p.block
	return p.Count(first, last-first+1) == last-first+1
}

// inside refuses blocks that are not in the region.
func (p *Pluggable) inside(first, n uint64) error {
	if n == 0 || first >= p.n || n > p.n-first {
		return fmt.Errorf("%w: %d blocks from %d on, of %d", ErrOutOfRange, n, first, p.n)
	}
	return nil
}

// Plug gives the guest n blocks from first on, none of which it has; they read as
// zeroes. On an error, which wraps ErrOutOfRange or names the system call, it has none
// of them.
func (p *Pluggable) Plug(first, n uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.inside(first, n); err != nil {
		return err
	}
	// A device that was at work on a block while it was taken may have made pages.
	if err := p.drop(first, n); err != nil {
		return err
	}
	if err := p.protect(first, n, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return err
	}
	p.words(first, n, func(w *atomic.Uint64, mask uint64) { w.Or(mask) })
	return nil
}

// Unplug takes n blocks from first on, all of which the guest has, and gives their
// pages back to the host. On an error, as those of Plug, the guest has them all.
func (p *Pluggable) Unplug(first, n uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.inside(first, n); err != nil {
		return err
	}
	if err := p.protect(first, n, unix.PROT_NONE); err != nil { // may need more mappings than there can be
		return err
	}
	p.words(first, n, func(w *atomic.Uint64, mask uint64) { w.And(^mask) })
	return p.drop(first, n)
}

func (p *Pluggable) drop(first, n uint64) error {
	start := p.off + first*p.block
	return p.g.giveBack(start, start+n*p.block)
}

func (p *Pluggable) protect(first, n uint64, access int) error {
	if err := unix.Mprotect(p.view[first*p.block:(first+n)*p.block], access); err != nil {
		return fmt.Errorf("change access to %d MiB of pluggable RAM: %w", n*p.block>>20, os.NewSyscallError("mprotect", err))
	}
	return nil
}

// MarkAllDirty records that this process or the kernel may have written to all of the
// RAM that the guest has.
func (g *Guest) MarkAllDirty() {
	for _, r := range g.regions {
		if r.plug == nil {
			g.dirty.setBytes(r.Offset, r.Size)
		}
	}
	if p := g.plug; p != nil {
		have := NewBitmap(p.n)
		have.OrWords(0, p.Blocks())
		for first, n := range have.All() {
			g.dirty.setBytes(p.off+first*p.block, n*p.block)
		}
	}
}

// Blocks returns the set of blocks that the guest has: bit n of word w is block
// 64*w+n.
func (p *Pluggable) Blocks() []uint64 {
	set := make([]uint64, len(p.have))
	for i := range set {
		set[i] = p.have[i].Load()
	}
	return set
}

// SetBlocks says which blocks a guest has that was saved, and leaves all content
// alone. Preconditions: the guest does not run. Errors wrap ErrLayout when the set is
// that of another region.
func (p *Pluggable) SetBlocks(set []uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(set) != len(p.have) || p.n%64 != 0 && set[len(set)-1]>>(p.n%64) != 0 {
		return fmt.Errorf("%w: a set of %d words for a region of %d blocks", ErrLayout, len(set), p.n)
	}
	if err := p.protect(0, p.n, unix.PROT_NONE); err != nil {
		return err
	}
	for i := range p.have {
		p.have[i].Store(0)
	}
	b := NewBitmap(p.n)
	b.OrWords(0, set)
	for first, n := range b.All() {
		if err := p.protect(first, n, unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return err
		}
		p.words(first, n, func(w *atomic.Uint64, mask uint64) { w.Or(mask) })
	}
	// What was filled in through Bytes need not be mapped twice from here on.
	_ = unix.Madvise(p.g.mem[p.off:p.off+p.n*p.block], unix.MADV_DONTNEED) // shared: the pages stay in the file
	return nil
}
