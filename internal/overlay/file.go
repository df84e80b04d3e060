package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// ErrFile is wrapped by what is wrong with an overlay's file.
var ErrFile = errors.New("overlay")

const (
	magic      = "HVCTLOVL"
	version    = 1
	headerSize = 4096
	pageSize   = 4096 // of the bitmap, as it is written

	blockBits = 16
	blockSize = 1 << blockBits

	// MaxSize is that of the largest disk, in bytes: its bitmap takes 16 MiB of memory.
	MaxSize = 8 << 40
)

// ID says which image an overlay belongs over.
type ID [32]byte

// Offsets in the header.
const (
	atVersion = 8
	atSize    = 16
	atID      = 24
	atSum     = atID + 32
	headerEnd = atSum + 4
)

func header(size uint64, id ID) []byte {
	b := make([]byte, headerEnd)
	be := binary.BigEndian
	copy(b, magic)
	be.PutUint32(b[atVersion:], version)
	be.PutUint64(b[atSize:], size)
	copy(b[atID:], id[:])
	be.PutUint32(b[atSum:], crc32.ChecksumIEEE(b[:atSum]))
	return b
}

// layout is how long the bitmap of a disk of size bytes is, and where the blocks are.
func layout(size uint64) (bitmap, data int64) {
	blocks := int64((size + blockSize - 1) >> blockBits)
	bitmap = ((blocks+7)/8 + pageSize - 1) / pageSize * pageSize
	return bitmap, (headerSize + bitmap + blockSize - 1) / blockSize * blockSize
}

// prepare makes an empty file an overlay, and checks any other. What is neither is
// refused and left as it is.
func prepare(f *os.File, size uint64, id ID) error {
	if size == 0 || size > MaxSize {
		return fmt.Errorf("%w: a disk of %d bytes; up to %d TiB are possible", ErrFile, size, uint64(MaxSize)>>40)
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	if end == 0 {
		return create(f, size, header(size, id))
	}
	have := make([]byte, headerEnd)
	if _, err := f.ReadAt(have, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	be := binary.BigEndian
	_, data := layout(size)
	switch {
	case string(have[:len(magic)]) != magic || be.Uint32(have[atSum:]) != crc32.ChecksumIEEE(have[:atSum]):
		return fmt.Errorf("%w: %s is not empty, and none that hvctl has made; name another file", ErrFile, f.Name())
	case be.Uint32(have[atVersion:]) != version:
		return fmt.Errorf("%w: %s has version %d; this hvctl knows %d", ErrFile, f.Name(), be.Uint32(have[atVersion:]), version)
	case be.Uint64(have[atSize:]) != size:
		return fmt.Errorf("%w: %s is of a disk of %d bytes, and the image below has %d", ErrFile, f.Name(), be.Uint64(have[atSize:]), size)
	case ID(have[atID:atSum]) != id:
		return fmt.Errorf("%w: %s belongs over another image, or that one has changed since", ErrFile, f.Name())
	case end < data+int64(size):
		return fmt.Errorf("%w: %s has %d bytes, and had %d when it was made: its end is missing", ErrFile, f.Name(), end, data+int64(size))
	}
	return nil
}

// create gives the file its size first: without the header it is no overlay.
func create(f *os.File, size uint64, h []byte) error {
	_, data := layout(size)
	err := f.Truncate(data + int64(size))
	if err == nil {
		_, err = f.WriteAt(h, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("%w: make %s: %w", ErrFile, f.Name(), errors.Join(err, f.Truncate(0)))
	}
	return nil
}
