package virtio

import (
	"encoding/binary"

	"github.com/hvctl/hvctl/memory"
)

// Descriptor flags (§2.7.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

const (
	// maxIndirect is the longest indirect chain taken, whatever the table's
	// size. Drivers keep to the queue size (§2.7.5.3.1), which is below it or
	// bounds the chain itself.
	maxIndirect = 1024
	// maxChainBytes is the most a chain may hold (§2.7.5.2).
	maxChainBytes = 1 << 32
	// keepBuffers is the longest backing that is kept for reuse in numbers. Of
	// those up to keepLongest, which Linux needs for 1 MiB of a disk, keepLong
	// are; of longer ones one at most.
	keepBuffers = 64
	keepLongest = 256
	keepLong    = 8
)

// chainBuf is the backing of one chain in flight.
type chainBuf struct{ readable, writable memory.Vec }

func (b *chainBuf) cap() int { return b.readable.Cap() + b.writable.Cap() }

// take returns empty backing.
func (q *Queue) take() *chainBuf {
	n := len(q.free)
	if n == 0 {
		return &chainBuf{}
	}
	b := q.free[n-1]
	q.free = q.free[:n-1]
	if b.cap() > keepBuffers {
		q.long--
	}
	return b
}

// give takes backing back for reuse. A driver that once sent long chains may
// not make us keep their backing for ever.
func (q *Queue) give(b *chainBuf) {
	if n := b.cap(); n > keepBuffers {
		if q.long >= keepLong || n > keepLongest && q.long > 0 {
			return
		}
		q.long++
	}
	b.readable.Reset()
	b.writable.Reset()
	q.free = append(q.free, b)
}

// descriptor is a copy of struct virtq_desc: the guest may rewrite the original
// after our checks.
type descriptor struct {
	addr  memory.GPA
	len   uint32
	flags uint16
	next  uint16
}

func readDescriptor(table []byte, i uint32) descriptor {
	var b [16]byte
	copy(b[:], table[16*i:])
	return descriptor{
		addr:  memory.GPA(binary.LittleEndian.Uint64(b[0:])),
		len:   binary.LittleEndian.Uint32(b[8:]),
		flags: binary.LittleEndian.Uint16(b[12:]),
		next:  binary.LittleEndian.Uint16(b[14:]),
	}
}

// walk collects the chain that starts at head into b, checking each
// descriptor's copy. Errors wrap ErrGuest.
func (q *Queue) walk(head uint16, b *chainBuf) error {
	table, limit, inside := q.desc, uint32(q.state.Size), false
	var total uint64
	i := uint32(head)
	for hops := uint32(0); ; hops++ {
		if hops >= limit {
			return GuestErrorf("chain is a loop or longer than %d", limit)
		}
		d := readDescriptor(table, i)
		if d.flags&descIndirect != 0 {
			t, err := q.indirectTable(d, inside)
			if err != nil {
				return err
			}
			table, inside, i = t, true, 0
			// hops goes on at 0 after the increment: the table has its own limit.
			limit, hops = min(uint32(len(t)/16), maxIndirect), ^uint32(0)
			continue
		}
		if err := q.addBuffer(d, b); err != nil {
			return err
		}
		if total += uint64(d.len); total > maxChainBytes {
			return GuestErrorf("chain holds more than 4 GiB")
		}
		if d.flags&descNext == 0 {
			return nil
		}
		if i = uint32(d.next); i >= uint32(len(table)/16) {
			return GuestErrorf("next descriptor %d is outside the table of %d", d.next, len(table)/16)
		}
	}
}

// addBuffer adds the buffer of d to the right half of b.
func (q *Queue) addBuffer(d descriptor, b *chainBuf) error {
	if d.len == 0 {
		return GuestErrorf("descriptor without length")
	}
	buf, err := q.mem.Buffer(d.addr, uint64(d.len), d.flags&descWrite != 0)
	if err != nil {
		return GuestErrorf("descriptor: %w", err)
	}
	if d.flags&descWrite != 0 {
		b.writable.Append(buf)
		return nil
	}
	if b.writable.Len() > 0 {
		return GuestErrorf("readable descriptor after a writable one") // §2.7.4.2
	}
	b.readable.Append(buf)
	return nil
}

// indirectTable returns the table that d refers to (§2.7.5.3). The WRITE flag
// of such a descriptor means nothing and is ignored (§2.7.5.3.2).
func (q *Queue) indirectTable(d descriptor, inside bool) ([]byte, error) {
	switch {
	case !q.indirect:
		return nil, GuestErrorf("indirect descriptor without VIRTIO_F_INDIRECT_DESC")
	case inside:
		return nil, GuestErrorf("indirect descriptor inside an indirect table")
	case d.flags&descNext != 0:
		return nil, GuestErrorf("indirect descriptor with NEXT")
	case d.len == 0 || d.len%16 != 0:
		return nil, GuestErrorf("indirect table of %d bytes", d.len)
	}
	t, err := q.mem.Slice(d.addr, uint64(d.len))
	if err != nil {
		return nil, GuestErrorf("indirect table: %w", err)
	}
	return t, nil
}
