package vsock

import "github.com/hvctl/hvctl/memory"

// chunkSize makes a chunk fill its allocation of 16 KiB.
const chunkSize = 16<<10 - 32

// chunk is a piece of a buffer: b[start:end] is unread.
type chunk struct {
	next       *chunk
	start, end int
	b          [chunkSize]byte
}

// pool keeps a few chunks for reuse, so that a steady stream allocates nothing
// and an idle device holds next to nothing.
type pool struct {
	free *chunk
	n    int
}

const poolMax = 32

func (p *pool) get() *chunk {
	c := p.free
	if c == nil {
		return new(chunk)
	}
	p.free = c.next
	p.n--
	c.next, c.start, c.end = nil, 0, 0
	return c
}

func (p *pool) put(c *chunk) {
	if p.n < poolMax {
		c.next, p.free = p.free, c
		p.n++
	}
}

// buffer is what a connection has received and its reader has not taken.
type buffer struct {
	head, tail *chunk
	n          int // bytes
}

// write appends v. The caller has checked the window.
func (b *buffer) write(p *pool, v memory.Vec) {
	for v.Len() > 0 {
		if b.tail == nil || b.tail.end == chunkSize {
			c := p.get()
			if b.tail == nil {
				b.head = c
			} else {
				b.tail.next = c
			}
			b.tail = c
		}
		n := v.CopyOut(b.tail.b[b.tail.end:])
		b.tail.end += n
		b.n += n
		v = v.Drop(n)
	}
}

// read moves up to len(dst) bytes to dst.
func (b *buffer) read(p *pool, dst []byte) (n int) {
	for n < len(dst) && b.head != nil {
		c := b.head
		k := copy(dst[n:], c.b[c.start:c.end])
		n += k
		if c.start += k; c.start == c.end {
			b.advance(p)
		}
	}
	b.n -= n
	return n
}

// advance gives the first chunk back.
func (b *buffer) advance(p *pool) {
	c := b.head
	if b.head = c.next; b.head == nil {
		b.tail = nil
	}
	p.put(c)
}

// clear forgets everything.
func (b *buffer) clear(p *pool) {
	for b.head != nil {
		b.advance(p)
	}
	b.n = 0
}
