// Package beat is the page of memory by which a benchmark sees a guest live:
// the guest writes it, and whoever can read the guest's memory file watches.
// So nothing of the way from the guest to the watcher, no device and no
// network, is in the figures.
package beat

import (
	"encoding/binary"
	"math"
)

// Size is the length of the page; it begins where a page of the guest's memory
// does.
const Size = 4096

// magic is made at run time, so that no file has it at a page's begin.
func magic() uint64 { return math.Float64bits(math.Pi) ^ 0x6d69677261746521 }

// Beat is what the page says. Words are written one at a time; Count last.
type Beat struct {
	Count   uint64 // grows with every tick
	Gap     uint64 // the longest time between two ticks by the guest's own clock, in nanoseconds
	Written uint64 // bytes of other memory that the guest has written
	Ready   uint64 // 1 when the guest has set its memory up
}

// Put writes all but the count, then the count.
func (b Beat) Put(page []byte) {
	le := binary.LittleEndian
	le.PutUint64(page[16:], b.Gap)
	le.PutUint64(page[24:], b.Written)
	le.PutUint64(page[32:], b.Ready)
	le.PutUint64(page[0:], magic())
	le.PutUint64(page[8:], b.Count)
}

// Parse reads the begin of a page; ok says whether it is one of ours.
func Parse(page []byte) (b Beat, ok bool) {
	if len(page) < 40 {
		return b, false
	}
	le := binary.LittleEndian
	if le.Uint64(page) != magic() {
		return b, false
	}
	return Beat{Count: le.Uint64(page[8:]), Gap: le.Uint64(page[16:]), Written: le.Uint64(page[24:]), Ready: le.Uint64(page[32:])}, true
}

// Head is how much of a page Parse needs, in bytes.
const Head = 40
