package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/hvctl/hvctl/migrate/wire"
)

const (
	// Version is the format version that this build writes; it reads this one and
	// the one before it.
	Version = 1

	magic      = "HVCTLSNP"
	headerSize = 4096
	hashedSize = 72 // header bytes that the identity covers
	flagDiff   = 1
)

// Ref is the identity of a snapshot: a hash over everything but the bytes of
// memory, and over the checksums of those.
type Ref [sha256.Size]byte

// String returns the identity in hexadecimal.
func (r Ref) String() string { return hex.EncodeToString(r[:]) }

// header is the first page of the file.
type header struct {
	version  uint32
	diff     bool
	size     uint64 // of the file
	indexOff uint64
	indexLen uint64
	base     Ref // zero unless diff
	id       Ref
}

// encode returns the header's bytes; it computes the identity from index.
func (h *header) encode(index []byte) []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], h.version)
	if h.diff {
		le.PutUint32(b[12:], flagDiff)
	}
	le.PutUint64(b[16:], h.size)
	le.PutUint64(b[24:], h.indexOff)
	le.PutUint64(b[32:], h.indexLen)
	copy(b[40:], h.base[:])
	h.id = identity(b[:hashedSize], index)
	copy(b[hashedSize:], h.id[:])
	le.PutUint32(b[headerSize-4:], wire.CRC(0, b[:headerSize-4]))
	return b
}

func identity(hashed, index []byte) (id Ref) {
	h := sha256.New()
	h.Write(hashed)
	h.Write(index)
	copy(id[:], h.Sum(nil))
	return id
}

// decodeHeader judges the first page of a file that has fileSize bytes. The
// identity is judged later, when the index has been read.
func decodeHeader(b []byte, fileSize uint64) (h header, err error) {
	le := binary.LittleEndian
	if len(b) < headerSize || string(b[:8]) != magic {
		return h, fmt.Errorf("%w: it does not begin with %s and a header of %d bytes", ErrNotSnapshot, magic, headerSize)
	}
	// The version comes before the checksum: a newer header may have it elsewhere.
	h.version = le.Uint32(b[8:])
	if h.version == 0 || h.version > Version || h.version+1 < Version {
		return h, fmt.Errorf("%w: the file has version %d, this build reads %d and %d", ErrVersion, h.version, Version-1, Version)
	}
	if got, want := wire.CRC(0, b[:headerSize-4]), le.Uint32(b[headerSize-4:]); got != want {
		return h, fmt.Errorf("%w: the header's checksum is %#08x, its bytes give %#08x", ErrCorrupt, want, got)
	}
	flags := le.Uint32(b[12:])
	h.diff = flags&flagDiff != 0
	h.size, h.indexOff, h.indexLen = le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:])
	copy(h.base[:], b[40:])
	copy(h.id[:], b[hashedSize:])
	end := hashedSize + len(h.id)
	switch {
	case flags&^flagDiff != 0:
		return h, fmt.Errorf("%w: unknown flags %#x", ErrVersion, flags&^flagDiff)
	case h.diff == (h.base == Ref{}):
		return h, fmt.Errorf("%w: diff is %v, its base is %v", ErrCorrupt, h.diff, h.base)
	case !bytes.Equal(b[end:headerSize-4], make([]byte, headerSize-4-end)):
		return h, fmt.Errorf("%w: the header's unused bytes are not zero", ErrCorrupt)
	case h.size != fileSize:
		return h, fmt.Errorf("%w: the file has %d bytes, its header says %d", ErrCorrupt, fileSize, h.size)
	case h.indexLen > maxIndex:
		return h, fmt.Errorf("%w: the index has %d bytes, at most %d are allowed", ErrCorrupt, h.indexLen, maxIndex)
	case h.indexOff < memoryStart || h.indexOff > h.size || h.size-h.indexOff != h.indexLen:
		return h, fmt.Errorf("%w: an index of %d bytes at %d does not end with the file", ErrCorrupt, h.indexLen, h.indexOff)
	}
	return h, nil
}
