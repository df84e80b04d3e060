package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrCorrupt is wrapped when bytes cannot be what the specification allows.
var ErrCorrupt = errors.New("corrupt")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC continues the CRC-32C crc (0 to begin) over p.
func CRC(crc uint32, p []byte) uint32 { return crc32.Update(crc, castagnoli, p) }

// Cursor reads fields from the front of a byte slice. After a field that is
// missing every further read gives zero values, and Err says which it was.
type Cursor struct {
	rest []byte
	err  error
}

// NewCursor reads from p, which it keeps and never changes.
func NewCursor(p []byte) *Cursor { return &Cursor{rest: p} }

// Err returns the first error. It wraps ErrCorrupt.
func (c *Cursor) Err() error { return c.err }

// Len returns how many bytes are left.
func (c *Cursor) Len() int { return len(c.rest) }

// Fail records an error, unless there is one already.
func (c *Cursor) Fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
	}
	c.rest = nil
}

// Bytes returns the next n bytes, a part of the slice given to NewCursor.
func (c *Cursor) Bytes(n int, field string) []byte {
	if n < 0 || n > len(c.rest) {
		c.Fail("%s needs %d bytes, %d are left", field, n, len(c.rest))
		return nil
	}
	p := c.rest[:n:n]
	c.rest = c.rest[n:]
	return p
}

// Uint16 returns the next two bytes as a number.
func (c *Cursor) Uint16(field string) uint16 {
	if p := c.Bytes(2, field); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

// Uint32 returns the next four bytes as a number.
func (c *Cursor) Uint32(field string) uint32 {
	if p := c.Bytes(4, field); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

// Uint64 returns the next eight bytes as a number.
func (c *Cursor) Uint64(field string) uint64 {
	if p := c.Bytes(8, field); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// Count returns the next four bytes as a number of items, which must be in
// [lo, hi].
func (c *Cursor) Count(lo, hi uint32, field string) int {
	n := c.Uint32(field)
	if c.err == nil && (n < lo || n > hi) {
		c.Fail("%s is %d, want %d to %d", field, n, lo, hi)
		return 0
	}
	return int(n)
}

// Done fails when bytes are left.
func (c *Cursor) Done() {
	if c.err == nil && len(c.rest) > 0 {
		c.Fail("%d bytes follow the last field", len(c.rest))
	}
}
