package memory

import "slices"

// Vec is a scatter list of guest bytes: a view, not a copy. The guest may
// change the bytes at any time, so copy a header once and judge the copy.
//
// A Vec is a small value; the methods return narrower views and never change
// the receiver. Views of one Vec share its list of buffers: those of a
// virtio.Chain are valid until the chain is pushed. Writing through a Vec does
// not mark pages dirty; virtio.Queue.Push does, for a whole chain.
type Vec struct {
	bufs [][]byte // none is empty
	head int      // bytes of bufs[0] that are not in the view
	tail int      // bytes of the last buffer that are not in the view
	n    int      // length of the view
}

// Append adds b to the end of v, reusing its backing. It is for those who own
// the backing (virtio.Queue, tests), before any view was taken.
func (v *Vec) Append(b []byte) {
	if len(b) != 0 {
		v.bufs = append(v.bufs, b)
		v.n += len(b)
	}
}

// Reset empties v and keeps its backing for further Appends; every view of v
// is invalid afterwards.
func (v *Vec) Reset() {
	*v = Vec{bufs: v.bufs[:0]}
}

// Cap returns how many buffers the backing can hold without growing.
func (v Vec) Cap() int { return cap(v.bufs) }

// Len returns the length in bytes.
func (v Vec) Len() int { return v.n }

// buffer returns buffer i, trimmed to the view.
func (v Vec) buffer(i int) []byte {
	b := v.bufs[i]
	if i == len(v.bufs)-1 {
		b = b[:len(b)-v.tail]
	}
	if i == 0 {
		b = b[v.head:]
	}
	return b
}

// CopyOut copies from the start of v into p and returns how many bytes it
// copied: less than len(p) when v is shorter.
func (v Vec) CopyOut(p []byte) (n int) {
	for i := 0; i < len(v.bufs) && n < len(p); i++ {
		n += copy(p[n:], v.buffer(i))
	}
	return n
}

// CopyIn copies p to the start of v and returns how many bytes it copied: less
// than len(p) when v is shorter.
func (v Vec) CopyIn(p []byte) (n int) {
	for i := 0; i < len(v.bufs) && n < len(p); i++ {
		n += copy(v.buffer(i), p[n:])
	}
	return n
}

// Zero fills v with zeroes.
func (v Vec) Zero() {
	for i := range v.bufs {
		clear(v.buffer(i))
	}
}

// Drop returns v without its first n bytes; empty when v is not longer, v
// itself when n is not positive.
func (v Vec) Drop(n int) Vec {
	if n >= v.n {
		return Vec{}
	}
	if n <= 0 {
		return v
	}
	v.n -= n
	v.head += n
	for v.head >= len(v.bufs[0]) {
		v.head -= len(v.bufs[0])
		v.bufs = v.bufs[1:]
	}
	return v
}

// DropLast returns v without its last n bytes; empty when v is not longer, v
// itself when n is not positive.
func (v Vec) DropLast(n int) Vec {
	if n >= v.n {
		return Vec{}
	}
	if n <= 0 {
		return v
	}
	v.n -= n
	v.tail += n
	for v.tail >= len(v.bufs[len(v.bufs)-1]) {
		v.tail -= len(v.bufs[len(v.bufs)-1])
		v.bufs = v.bufs[: len(v.bufs)-1 : len(v.bufs)-1]
	}
	return v
}

// Split returns the first n bytes of v and the rest; the first part is shorter
// than n when v is.
func (v Vec) Split(n int) (first, rest Vec) {
	return v.DropLast(v.n - n), v.Drop(n)
}

// Last returns the last n bytes of v, or v when it is not longer.
func (v Vec) Last(n int) Vec { return v.Drop(v.n - n) }

// Buffers returns the bytes as a list for preadv, pwritev, readv or writev.
// The caller may not change the list. It allocates only when v begins or ends
// inside a buffer; AppendBuffers never does when dst is large enough.
func (v Vec) Buffers() [][]byte {
	if v.head == 0 && v.tail == 0 {
		return slices.Clip(v.bufs)
	}
	return v.AppendBuffers(make([][]byte, 0, len(v.bufs)))
}

// AppendBuffers appends the bytes of v to dst, one element a buffer.
func (v Vec) AppendBuffers(dst [][]byte) [][]byte {
	for i := range v.bufs {
		dst = append(dst, v.buffer(i))
	}
	return dst
}
