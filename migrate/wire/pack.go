package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Method is a way to pack the payload of a PAGES frame.
type Method uint8

// The methods. Both numbers are on the wire.
const (
	S2   Method = 1 // a Snappy block with S2's extensions
	Zstd Method = 2 // one Zstandard frame
)

// PackedHeader is what a PACKED payload has before the packed bytes: the method
// and the length of the PAGES payload, u32.
const PackedHeader = 1 + 4

// Packer makes the payloads of PACKED frames of one stream. The zero value is
// ready; it is for one goroutine.
type Packer struct {
	zstd *zstd.Encoder
}

// Pack appends the PACKED payload of a PAGES payload to dst, whose room it uses.
func (p *Packer) Pack(dst []byte, m Method, pages []byte) ([]byte, error) {
	dst = append(dst, byte(m))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(pages)))
	switch m {
	case S2:
		n := len(dst)
		if room := s2.MaxEncodedLen(len(pages)); room < 0 || cap(dst)-n < room {
			return nil, fmt.Errorf("pack %d bytes of pages: room for %d bytes", len(pages), cap(dst)-n)
		}
		return dst[:n+len(s2.Encode(dst[n:cap(dst)], pages))], nil
	case Zstd:
		if p.zstd == nil {
			var err error
			p.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
				zstd.WithEncoderCRC(false), zstd.WithWindowSize(MaxPayload/4), zstd.WithLowerEncoderMem(true))
			if err != nil {
				return nil, fmt.Errorf("pack pages: %w", err)
			}
		}
		return p.zstd.EncodeAll(pages, dst), nil
	}
	return nil, fmt.Errorf("pack pages by method %d: there is none", m)
}

// PackedRoom returns how much room Pack may need for n bytes of a PAGES payload.
func PackedRoom(n int) int { return PackedHeader + max(s2.MaxEncodedLen(n), n+n/8+1024) }

// Unpacker takes the payloads of PACKED frames of one stream apart. The zero
// value is ready; it is for one goroutine. It holds MaxPayload bytes at most,
// and as much again while it works.
type Unpacker struct {
	zstd *zstd.Decoder
	buf  []byte
}

// Unpack returns the PAGES payload, valid until the next call. Errors wrap
// ErrCorrupt.
func (u *Unpacker) Unpack(payload []byte) ([]byte, error) {
	c := NewCursor(payload)
	head := c.Bytes(1, "method")
	n := c.Count(1, MaxPayload, "unpacked length")
	if c.Err() != nil {
		return nil, fmt.Errorf("PACKED: %w", c.Err())
	}
	if n > cap(u.buf) {
		u.buf = make([]byte, n)
	}
	packed, dst := c.Bytes(c.Len(), "packed bytes"), u.buf[:n:n]
	var got []byte
	var err error
	switch m := Method(head[0]); m {
	case S2:
		if l, lerr := s2.DecodedLen(packed); lerr != nil || l != n {
			return nil, fmt.Errorf("%w: PACKED of %d bytes has %d inside (%v)", ErrCorrupt, n, l, lerr)
		}
		got, err = s2.Decode(dst, packed)
	case Zstd:
		if u.zstd == nil {
			if u.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxMemory(MaxPayload), zstd.WithDecodeAllCapLimit(true)); err != nil {
				return nil, fmt.Errorf("unpack pages: %w", err)
			}
		}
		got, err = u.zstd.DecodeAll(packed, dst[:0])
	default:
		return nil, fmt.Errorf("%w: PACKED by method %d, which does not exist", ErrCorrupt, m)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: PACKED: %w", ErrCorrupt, err)
	}
	if len(got) != n {
		return nil, fmt.Errorf("%w: PACKED says %d bytes and has %d", ErrCorrupt, n, len(got))
	}
	return got, nil
}
