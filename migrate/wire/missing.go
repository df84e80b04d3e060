package wire

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// missingWords is how many words of a bitmap go into one MISSING frame.
const missingWords = 64 << 10

// AppendMissing calls send with the payloads of the MISSING frames that say which
// pages of the regions are not there: bit n of a region's word w is page 64*w+n.
// Words of zeroes at the ends of a frame are left out.
func AppendMissing(missing [][]uint64, send func(payload []byte) error) error {
	le := binary.LittleEndian
	var b []byte
	for region, words := range missing {
		for w := 0; w < len(words); {
			if words[w] == 0 {
				w++
				continue
			}
			part := words[w:min(w+missingWords, len(words))]
			for part[len(part)-1] == 0 {
				part = part[:len(part)-1]
			}
			b = le.AppendUint16(b[:0], uint16(region))
			b = le.AppendUint64(b, uint64(w))
			for _, v := range part {
				b = le.AppendUint64(b, v)
			}
			w += len(part)
			if err := send(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// DecodeMissing adds what a MISSING payload says to missing, which has a bitmap
// for each region; pages are the regions' sizes. It returns how many pages are
// new there. Errors wrap ErrCorrupt, and nothing was added then.
func DecodeMissing(payload []byte, pages []uint64, missing [][]uint64) (n uint64, err error) {
	c := NewCursor(payload)
	region, first := c.Uint16("region"), c.Uint64("first word")
	words := uint64(c.Len() / 8)
	switch {
	case c.Err() != nil:
	case int(region) >= len(pages):
		c.Fail("MISSING of region %d, there are %d", region, len(pages))
	case words == 0 || c.Len()%8 != 0 || words > missingWords:
		c.Fail("MISSING with %d bytes of words", c.Len())
	case first >= uint64(len(missing[region])) || words > uint64(len(missing[region]))-first:
		c.Fail("MISSING of %d words at %d leaves region %d of %d pages", words, first, region, pages[region])
	}
	if c.Err() != nil {
		return 0, fmt.Errorf("MISSING: %w", c.Err())
	}
	b := payload[len(payload)-c.Len():]
	to, le := missing[region][first:first+words], binary.LittleEndian
	if tail := pages[region] % 64; tail != 0 && first+words == uint64(len(missing[region])) && le.Uint64(b[len(b)-8:])>>tail != 0 {
		return 0, fmt.Errorf("%w: MISSING of pages beyond the end of region %d", ErrCorrupt, region)
	}
	for i := range to {
		v := le.Uint64(b[8*i:])
		n += uint64(bits.OnesCount64(v &^ to[i]))
		to[i] |= v
	}
	return n, nil
}

// AppendFetch appends the payload of a FETCH: the page of a region that somebody
// waits for.
func AppendFetch(b []byte, region uint16, page uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(b, region), page)
}

// DecodeFetch takes it apart; pages are the regions' sizes. Errors wrap
// ErrCorrupt.
func DecodeFetch(payload []byte, pages []uint64) (region uint16, page uint64, err error) {
	c := NewCursor(payload)
	region, page = c.Uint16("region"), c.Uint64("page")
	if c.Done(); c.Err() == nil && (int(region) >= len(pages) || page >= pages[region]) {
		c.Fail("page %d of region %d is none of the RAM", page, region)
	}
	if c.Err() != nil {
		return 0, 0, fmt.Errorf("FETCH: %w", c.Err())
	}
	return region, page, nil
}
