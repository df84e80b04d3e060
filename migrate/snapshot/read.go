package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/sparse"
	"github.com/hvctl/hvctl/migrate/wire"
)

// ReadInto copies the memory of a full snapshot into ram, which has the file's
// regions and reads as zeroes, and checks the checksums. After an error ram
// holds anything. Errors wrap ErrCorrupt, ErrChain (a diff), or are the file
// system's.
func (s *Snapshot) ReadInto(ctx context.Context, ram []memory.Region, o Options) error {
	c := Chain{layers: []*Snapshot{s}}
	if base, ok := s.Base(); ok {
		return fmt.Errorf("%w: %s is a diff over %v, restore it with its bases", ErrChain, s.f.Name(), base)
	}
	return c.ReadInto(ctx, ram, o)
}

// Verify reads all stored memory and checks it; of a full snapshot also that
// the pages not stored read as zeroes, as a mapping would show them. Errors
// wrap ErrCorrupt or are the file system's.
func (s *Snapshot) Verify(ctx context.Context, o Options) error {
	data := make([][]uint64, len(s.x.regions))
	for i, r := range s.x.regions {
		var err error
		if data[i], err = sparse.Data(int(s.f.Fd()), r.Offset, r.Size); err != nil {
			return err
		}
	}
	err := eachStripe(ctx, s.x.regions, o.workers(), func(region int, n uint64, buf []byte) error {
		if err := s.readChunk(region, n, buf); err != nil {
			return err
		}
		if s.h.diff {
			return nil
		}
		return s.checkHoles(region, n, of(data[region], n)&^of(s.x.tables[region].stored, n), buf)
	})
	if err != nil {
		return fmt.Errorf("verify %s: %w", s.f.Name(), err)
	}
	return nil
}

// checkHoles fails when one of the pages in the file is not zero.
func (s *Snapshot) checkHoles(region int, n uint64, p pages, buf []byte) error {
	r := s.x.regions[region]
	for from, to := range p.runs {
		run := buf[from*pageSize : to*pageSize]
		if _, err := s.f.ReadAt(run, int64(r.Offset+n*chunkSize)+int64(from)*pageSize); err != nil {
			return err
		}
		for i := 0; i < len(run); i += pageSize {
			if !sparse.IsZero(run[i : i+pageSize]) {
				return fmt.Errorf("%w: the page at %#x is not stored, and not zero", ErrCorrupt,
					uint64(r.GPA)+n*chunkSize+uint64(from*pageSize+i))
			}
		}
	}
	return nil
}

// readChunk reads the stored pages of chunk n to their places in dst, the
// chunk's bytes, and checks their checksum.
func (s *Snapshot) readChunk(region int, n uint64, dst []byte) error {
	t, r := s.x.tables[region], s.x.regions[region]
	off := r.Offset + n*chunkSize
	var crc uint32
	for from, to := range of(t.stored, n).runs {
		run := dst[from*pageSize : to*pageSize]
		if _, err := s.f.ReadAt(run, int64(off)+int64(from)*pageSize); err != nil {
			return err
		}
		crc = wire.CRC(crc, run)
	}
	if crc != t.crc[n] {
		return fmt.Errorf("%w: memory at %#x+%#x has the checksum %#08x, want %#08x", ErrCorrupt,
			uint64(r.GPA)+n*chunkSize, chunkSize, crc, t.crc[n])
	}
	return nil
}

// ChunkSize is the unit of ReadChunk and of the checksums, in bytes.
const ChunkSize = chunkSize

// ReadChunk makes dst chunk n of a region of a full snapshot, checked; at the end
// of a region dst may be shorter than ChunkSize. stored is false when all of it is
// zero. Errors wrap ErrCorrupt or are the file system's.
func (s *Snapshot) ReadChunk(region int, n uint64, dst []byte) (stored bool, err error) {
	clear(dst)
	if !s.Stores(region, n) {
		return false, nil
	}
	err = s.readChunk(region, n, dst)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %s ends before the memory at %#x: it was cut off since it was opened", ErrCorrupt, s.f.Name(), uint64(s.x.regions[region].GPA)+n*chunkSize)
	}
	return true, err
}

// Stores tells whether the file has anything of a chunk.
func (s *Snapshot) Stores(region int, n uint64) bool { return of(s.x.tables[region].stored, n) != 0 }

// Pages returns how many pages the file stores, and how many pages of a diff
// became zero.
func (s *Snapshot) Pages() (stored, zero uint64) {
	for _, t := range s.x.tables {
		for _, w := range t.stored {
			stored += uint64(bits.OnesCount64(w))
		}
		for _, w := range t.zero {
			zero += uint64(bits.OnesCount64(w))
		}
	}
	return stored, zero
}
