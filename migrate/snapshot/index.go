package snapshot

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/wire"
)

const (
	// MaxDescription bounds the description, in bytes.
	MaxDescription = 1 << 20
	// maxIndex is the state, the description and the tables of MaxMemory.
	maxIndex = wire.MaxState + MaxDescription + 64<<10 + MaxMemory>>30*(128<<10)
)

// index is everything in the file but memory and header.
type index struct {
	regions     []Region
	description json.RawMessage
	sections    []state.Section
	tables      []table // one per region
}

// table says what is stored of one region.
type table struct {
	stored []uint64 // bitmap of pages that are in the file
	zero   []uint64 // diff only: bitmap of pages that became zero
	crc    []uint32 // per chunk, over its stored pages
}

func newTable(r Region, diff bool) table {
	t := table{stored: make([]uint64, r.words()), crc: make([]uint32, r.chunks())}
	if diff {
		t.zero = make([]uint64, r.words())
	}
	return t
}

// pages is a set of pages of one chunk: bit n is the chunk's page n.
type pages uint16

// of returns the part of bitmap that is chunk n.
func of(bitmap []uint64, n uint64) pages { return pages(bitmap[n/4] >> (n % 4 * chunkPages)) }

// set puts p into bitmap as chunk n. Four chunks share a word: they have one
// writer.
func set(bitmap []uint64, n uint64, p pages) { bitmap[n/4] |= uint64(p) << (n % 4 * chunkPages) }

// put makes the part of bitmap that is chunk n p.
func put(bitmap []uint64, n uint64, p pages) {
	shift := n % 4 * chunkPages
	bitmap[n/4] = bitmap[n/4]&^((1<<chunkPages-1)<<shift) | uint64(p)<<shift
}

// count returns the number of pages in p.
func count(p pages) uint64 { return uint64(bits.OnesCount16(uint16(p))) }

// runs yields the neighbours in p as [from, to).
func (p pages) runs(yield func(from, to int) bool) {
	for i := 0; i < chunkPages; {
		if p>>i&1 == 0 {
			i++
			continue
		}
		j := i
		for j < chunkPages && p>>j&1 != 0 {
			j++
		}
		if !yield(i, j) {
			return
		}
		i = j
	}
}

func (x *index) encode() ([]byte, error) {
	le := binary.LittleEndian
	if len(x.description) > MaxDescription || !json.Valid(x.description) {
		return nil, fmt.Errorf("description of %d bytes is no JSON of at most %d bytes", len(x.description), MaxDescription)
	}
	b := le.AppendUint32(nil, uint32(len(x.regions)))
	for _, r := range x.regions {
		b = le.AppendUint64(b, uint64(r.GPA))
		b = le.AppendUint64(b, r.Size)
		b = le.AppendUint64(b, r.Offset)
	}
	b = le.AppendUint32(b, uint32(len(x.description)))
	b = append(b, x.description...)
	b, err := wire.AppendSections(b, x.sections)
	if err != nil {
		return nil, err
	}
	for _, t := range x.tables {
		for _, bitmap := range [][]uint64{t.stored, t.zero} {
			for _, w := range bitmap {
				b = le.AppendUint64(b, w)
			}
		}
		for _, c := range t.crc {
			b = le.AppendUint32(b, c)
		}
	}
	return b, nil
}

// decodeIndex judges the index of a file whose header says where it begins
// and whether it is a diff. Errors wrap ErrCorrupt.
func decodeIndex(b []byte, h header) (*index, error) {
	x := &index{}
	c := wire.NewCursor(b)
	for range c.Count(1, maxRegions, "number of regions") {
		x.regions = append(x.regions, Region{
			GPA: memory.GPA(c.Uint64("region address")), Size: c.Uint64("region size"), Offset: c.Uint64("region offset"),
		})
	}
	x.description = c.Bytes(c.Count(0, MaxDescription, "length of the description"), "description")
	x.sections = wire.Sections(c)
	if c.Err() != nil {
		return nil, fmt.Errorf("%w: index: %w", ErrCorrupt, c.Err())
	}
	if !json.Valid(x.description) {
		return nil, fmt.Errorf("%w: index: the description is no JSON", ErrCorrupt)
	}
	placed, end, err := place(x.regions)
	if err != nil {
		return nil, fmt.Errorf("%w: index: %w", ErrCorrupt, err)
	}
	if end != h.indexOff {
		return nil, fmt.Errorf("%w: memory ends at %d, the index begins at %d", ErrCorrupt, end, h.indexOff)
	}
	for i, r := range x.regions {
		if r != placed[i] {
			return nil, fmt.Errorf("%w: region %v is at offset %d, want %d", ErrCorrupt, r.GPA, r.Offset, placed[i].Offset)
		}
	}
	if err := x.decodeTables(c, h.diff); err != nil {
		return nil, fmt.Errorf("%w: index: %w", ErrCorrupt, err)
	}
	return x, nil
}

func (x *index) decodeTables(c *wire.Cursor, diff bool) error {
	var want uint64
	for _, r := range x.regions {
		want += r.words()*8 + r.chunks()*4
		if diff {
			want += r.words() * 8
		}
	}
	if uint64(c.Len()) != want {
		return fmt.Errorf("tables have %d bytes, the regions need %d", c.Len(), want)
	}
	for _, r := range x.regions {
		t := newTable(r, diff)
		for _, bitmap := range [][]uint64{t.stored, t.zero} {
			for i := range bitmap {
				bitmap[i] = c.Uint64("bitmap")
			}
		}
		for i := range t.crc {
			t.crc[i] = c.Uint32("chunk checksum")
		}
		if err := t.check(r); err != nil {
			return err
		}
		x.tables = append(x.tables, t)
	}
	return c.Err()
}

// check finds contradictions inside a table.
func (t table) check(r Region) error {
	if n := r.Size / pageSize % 64; n != 0 {
		beyond := ^uint64(0) << n
		last := len(t.stored) - 1
		if t.stored[last]&beyond != 0 || t.zero != nil && t.zero[last]&beyond != 0 {
			return fmt.Errorf("region %v has pages beyond its end", r.GPA)
		}
	}
	for i := range t.zero {
		if t.stored[i]&t.zero[i] != 0 {
			return fmt.Errorf("region %v has a page that is both stored and zero", r.GPA)
		}
	}
	for n, crc := range t.crc {
		if crc != 0 && of(t.stored, uint64(n)) == 0 {
			return fmt.Errorf("region %v chunk %d has a checksum and no pages", r.GPA, n)
		}
	}
	return nil
}
