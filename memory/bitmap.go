package memory

import (
	"iter"
	"math/bits"
	"sync/atomic"
)

// Bitmap is a set of pages, one bit each. All methods may be called
// concurrently; a page set during a harvest is in that harvest or in the next,
// never lost.
type Bitmap struct {
	pages uint64
	words []atomic.Uint64
}

// NewBitmap returns an empty set that can hold pages 0 to pages-1.
func NewBitmap(pages uint64) *Bitmap {
	return &Bitmap{pages: pages, words: make([]atomic.Uint64, (pages+63)/64)}
}

// Pages returns the capacity in pages.
func (b *Bitmap) Pages() uint64 { return b.pages }

// Set adds pages first to first+n-1; those beyond the capacity are ignored.
func (b *Bitmap) Set(first, n uint64) {
	if first >= b.pages {
		return
	}
	last := first + min(n, b.pages-first) // one past
	for first < last {
		w, bit := first/64, first%64
		k := min(64-bit, last-first)
		mask := (^uint64(0) >> (64 - k)) << bit
		// Most pages are dirty already: a load is cheaper than a locked or.
		if b.words[w].Load()&mask != mask {
			b.words[w].Or(mask)
		}
		first += k
	}
}

// setBytes adds the pages that hold n bytes at file offset off.
func (b *Bitmap) setBytes(off, n uint64) {
	if n == 0 {
		return
	}
	first := off / PageSize
	b.Set(first, (off+n-1)/PageSize-first+1)
}

// OrWords adds the pages of a little-endian bit array as KVM_GET_DIRTY_LOG
// returns it: bit 0 of words[0] is page first, which must be a multiple of 64.
func (b *Bitmap) OrWords(first uint64, words []uint64) {
	for i, w := range words {
		if k := first/64 + uint64(i); w != 0 && k < uint64(len(b.words)) {
			if k == uint64(len(b.words))-1 && b.pages%64 != 0 {
				w &= 1<<(b.pages%64) - 1
			}
			b.words[k].Or(w)
		}
	}
}

// Has reports whether page p is in the set.
func (b *Bitmap) Has(p uint64) bool {
	return p < b.pages && b.words[p/64].Load()>>(p%64)&1 != 0
}

// Count returns the number of pages in the set.
func (b *Bitmap) Count() (n uint64) {
	for i := range b.words {
		n += uint64(bits.OnesCount64(b.words[i].Load()))
	}
	return n
}

// Harvest moves all pages of b into into, which must have the same capacity,
// and returns how many b had. b is empty afterwards, but for pages set
// meanwhile.
func (b *Bitmap) Harvest(into *Bitmap) (n uint64) {
	for i := range b.words {
		if b.words[i].Load() == 0 {
			continue
		}
		w := b.words[i].Swap(0)
		n += uint64(bits.OnesCount64(w))
		if i < len(into.words) {
			into.words[i].Or(w)
		}
	}
	return n
}

// Take removes the pages of words and ors them into words: bit 0 of words[0] is
// page first, which must be a multiple of 64. Pages set meanwhile stay.
func (b *Bitmap) Take(first uint64, words []uint64) {
	for i := range words {
		if k := first/64 + uint64(i); k < uint64(len(b.words)) && b.words[k].Load() != 0 {
			words[i] |= b.words[k].Swap(0)
		}
	}
}

// Clear empties the set.
func (b *Bitmap) Clear() {
	for i := range b.words {
		b.words[i].Store(0)
	}
}

// All yields the pages of the set as runs of neighbours, in order.
func (b *Bitmap) All() iter.Seq2[uint64, uint64] {
	return func(yield func(first, n uint64) bool) {
		var first, n uint64
		for i := range b.words {
			for w := b.words[i].Load(); w != 0; w &= w - 1 {
				p := uint64(i)*64 + uint64(bits.TrailingZeros64(w))
				if n > 0 && p == first+n {
					n++
					continue
				}
				if n > 0 && !yield(first, n) {
					return
				}
				first, n = p, 1
			}
		}
		if n > 0 {
			yield(first, n)
		}
	}
}
