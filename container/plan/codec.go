package plan

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxSize bounds an encoded plan.
const MaxSize = 8 << 20

// maxItems bounds each list of a plan.
const maxItems = 1 << 16

// magic starts every plan; the last byte changes with the encoding.
const magic = "hvplan\x00\x01"

// ErrMalformed means that bytes are not a plan.
var ErrMalformed = errors.New("malformed plan")

// Encode returns p's bytes.
func (p *Plan) Encode() ([]byte, error) {
	c := coder{out: append(make([]byte, 0, 4096), magic...)}
	p.code(&c)
	if len(c.out) > MaxSize {
		return nil, fmt.Errorf("plan: %d bytes are more than %d; the configuration is too large", len(c.out), MaxSize)
	}
	return c.out, nil
}

// Decode reads what Encode wrote. The plan's byte slices alias b. Errors wrap
// ErrMalformed.
func Decode(b []byte) (*Plan, error) {
	if len(b) > MaxSize || len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: wrong beginning or size", ErrMalformed)
	}
	c := coder{in: b[len(magic):], decoding: true}
	p := new(Plan)
	p.code(&c)
	switch {
	case c.failed:
		return nil, fmt.Errorf("%w: cut short or out of bounds", ErrMalformed)
	case len(c.in) != 0:
		return nil, fmt.Errorf("%w: %d bytes too many", ErrMalformed, len(c.in))
	}
	return p, nil
}

// coder walks the fields of a plan, writing or reading each.
type coder struct {
	out      []byte
	in       []byte
	decoding bool
	failed   bool
}

// take returns the next n bytes, or nil after a failure.
func (c *coder) take(n uint64) []byte {
	if c.failed || n > uint64(len(c.in)) {
		c.failed = true
		return nil
	}
	b := c.in[:n:n]
	c.in = c.in[n:]
	return b
}

func (c *coder) u32(v *uint32) {
	if !c.decoding {
		c.out = binary.LittleEndian.AppendUint32(c.out, *v)
	} else if b := c.take(4); b != nil {
		*v = binary.LittleEndian.Uint32(b)
	}
}

func (c *coder) i32(v *int32) {
	u := uint32(*v)
	c.u32(&u)
	*v = int32(u)
}

func (c *coder) u64(v *uint64) {
	if !c.decoding {
		c.out = binary.LittleEndian.AppendUint64(c.out, *v)
	} else if b := c.take(8); b != nil {
		*v = binary.LittleEndian.Uint64(b)
	}
}

func (c *coder) bool(v *bool) {
	if !c.decoding {
		n := byte(0)
		if *v {
			n = 1
		}
		c.out = append(c.out, n)
	} else if b := c.take(1); b != nil {
		*v = b[0] == 1
		c.failed = c.failed || b[0] > 1
	}
}

func (c *coder) bytes(v *[]byte) {
	n := uint32(len(*v))
	c.u32(&n)
	if !c.decoding {
		c.out = append(c.out, *v...)
	} else if b := c.take(uint64(n)); len(b) > 0 {
		*v = b
	}
}

func (c *coder) str(v *string) {
	if !c.decoding {
		n := uint32(len(*v))
		c.u32(&n)
		c.out = append(c.out, *v...)
		return
	}
	var b []byte
	c.bytes(&b)
	*v = string(b)
}

// list codes the elements of *v with each. An element takes at least one byte,
// so a count that exceeds what is left is refused before anything is made.
func list[T any](c *coder, v *[]T, each func(*coder, *T)) {
	n := uint32(len(*v))
	c.u32(&n)
	if c.decoding {
		if c.failed || n > maxItems || uint64(n) > uint64(len(c.in)) {
			c.failed = true
			return
		}
		if n > 0 {
			*v = make([]T, n)
		}
	}
	for i := range *v {
		if c.failed {
			return
		}
		each(c, &(*v)[i])
	}
}

func (c *coder) strs(v *[]string) { list(c, v, (*coder).str) }
func (c *coder) u32s(v *[]uint32) { list(c, v, (*coder).u32) }
func (c *coder) u64s(v *[]uint64) { list(c, v, (*coder).u64) }
func (c *coder) pairs(v *[]Pair) {
	list(c, v, func(c *coder, p *Pair) { c.str(&p.Key); c.str(&p.Value) })
}
func (c *coder) hooks(v *[]Hook)   { list(c, v, func(c *coder, h *Hook) { h.code(c) }) }
func (c *coder) mounts(v *[]Mount) { list(c, v, func(c *coder, m *Mount) { m.code(c) }) }
