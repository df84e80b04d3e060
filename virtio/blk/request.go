package blk

import (
	"encoding/binary"
	"fmt"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// Request types (§5.2.6).
const (
	typeIn          = 0
	typeOut         = 1
	typeFlush       = 4
	typeGetID       = 8
	typeDiscard     = 11
	typeWriteZeroes = 13
)

// Request status (§5.2.6).
const (
	statusOK          = 0
	statusIOErr       = 1
	statusUnsupported = 2
)

const (
	sectorSize  = 512
	headerSize  = 16
	idSize      = 20
	segmentSize = 16
	flagUnmap   = 1

	// A request may not keep the worker, and so a pause, for long: these bound
	// what one can ask for.
	maxTransfer        = 64 << 20 // bytes moved; Linux asks for 1 MiB or so
	maxDiscardSegments = 32
	maxDiscard         = 1 << 30 / sectorSize // sectors of one segment
	maxZeroSegments    = 1
	maxZero            = 64 << 20 / sectorSize // sectors; they may have to be written
)

// request is one parsed request.
type request struct {
	kind   uint32
	sector uint64
	data   memory.Vec // the guest's buffer to or from which bytes move, by type
	status memory.Vec // one byte
}

// parse reads a request from a chain, in whatever way it is spread over
// descriptors (§2.7.4.1). An error wraps virtio.ErrGuest: the chain cannot
// even hold a status.
func parse(c virtio.Chain) (request, error) {
	var h [headerSize]byte
	if n := c.Readable.CopyOut(h[:]); n < headerSize {
		return request{}, virtio.GuestErrorf("block request header of %d bytes", n)
	}
	if c.Writable.Len() < 1 {
		return request{}, virtio.GuestErrorf("block request without room for its status")
	}
	r := request{
		kind:   binary.LittleEndian.Uint32(h[0:]),
		sector: binary.LittleEndian.Uint64(h[8:]),
		status: c.Writable.Last(1),
	}
	if r.changes() {
		r.data = c.Readable.Drop(headerSize)
	} else {
		r.data = c.Writable.DropLast(1)
	}
	return r, nil
}

// changes reports whether r would change the disk.
func (r request) changes() bool {
	return r.kind == typeOut || r.kind == typeDiscard || r.kind == typeWriteZeroes
}

// span is a range of the disk in bytes.
type span struct{ off, n int64 }

// within checks a range of sectors against the disk's size. Nothing can wrap:
// a disk's size in bytes fits an int64.
func within(sector, sectors, capacity uint64) (span, error) {
	if sector > capacity || sectors > capacity-sector {
		return span{}, fmt.Errorf("%w: sectors %d+%d are past the end of a disk of %d", errRefused, sector, sectors, capacity)
	}
	return span{int64(sector * sectorSize), int64(sectors * sectorSize)}, nil
}

// segment is one range of a discard or write-zeroes request (§5.2.6, struct
// virtio_blk_discard_write_zeroes).
type segment struct {
	sector  uint64
	sectors uint32
	flags   uint32
	span    // set by check
}

// segments decodes a copy of data; most is how many it may hold.
func segments(data memory.Vec, into []segment, most int) ([]segment, error) {
	n := data.Len()
	if n == 0 || n%segmentSize != 0 || n > most*segmentSize {
		return nil, fmt.Errorf("%w: %d bytes of segments", errRefused, n)
	}
	var raw [maxDiscardSegments * segmentSize]byte
	data.CopyOut(raw[:n])
	for b := raw[:n]; len(b) > 0; b = b[segmentSize:] {
		into = append(into, segment{
			sector: binary.LittleEndian.Uint64(b), sectors: binary.LittleEndian.Uint32(b[8:]), flags: binary.LittleEndian.Uint32(b[12:]),
		})
	}
	return into, nil
}

// check finds the segment's place on the disk.
func (s *segment) check(capacity uint64, most, flags uint32) (err error) {
	if s.flags&^flags != 0 {
		return errUnsupported // §5.2.6.2
	}
	if s.sectors > most {
		return fmt.Errorf("%w: segment of %d sectors, more than %d", errRefused, s.sectors, most)
	}
	s.span, err = within(s.sector, uint64(s.sectors), capacity)
	return err
}
