package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrImage is wrapped by everything that is wrong with an image.
var ErrImage = errors.New("qcow2 image")

const (
	magic      = "QFI\xfb"
	lenV2      = 72
	lenV3      = 104
	lenView    = 112 // lenV3 and the compression type
	minCluster = 9   // bits
	maxCluster = 21
	sector     = 512

	// MaxSize is that of the largest disk that is read, in bytes.
	MaxSize = 64 << 40
	// maxL1 bounds the table that is kept in memory, in entries of 8 bytes.
	maxL1 = 1 << 18
)

// Incompatible features.
const (
	featDirty       = 1 << 0 // reference counts are stale: no matter to who reads
	featCompression = 1 << 3 // the header has a compression type
)

// refused names the features that an image may not have.
var refused = []struct {
	bit  uint64
	what string
}{
	{1 << 1, "it is marked as corrupt; repair it with `qemu-img check -r all`"},
	{1 << 2, "its data are in another file"},
	{1 << 4, "it has extended L2 entries"},
}

// header is what of an image's header matters.
type header struct {
	clusterBits uint32
	size        uint64 // bytes
	l1Size      uint32 // entries that the disk needs
	l1Offset    uint64
	compression byte
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrImage}, args...)...)
}

// readHeader judges the header of an image of fileSize bytes.
func readHeader(r io.ReaderAt, fileSize int64) (h header, err error) {
	b := make([]byte, min(lenView, max(fileSize, 0)))
	if _, err := r.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return h, fmt.Errorf("%w: %w", ErrImage, err)
	}
	if len(b) < lenV2 || string(b[:4]) != magic {
		return h, refuse("it does not begin as one")
	}
	be := binary.BigEndian
	version := be.Uint32(b[4:])
	h.clusterBits, h.size, h.l1Offset = be.Uint32(b[20:]), be.Uint64(b[24:]), be.Uint64(b[40:])
	switch {
	case version != 2 && version != 3:
		return h, refuse("version %d; 2 and 3 are known", version)
	case be.Uint64(b[8:]) != 0 || be.Uint32(b[16:]) != 0:
		return h, refuse("it is based on another file, which it may not choose; make one image of both with `qemu-img convert -O qcow2`")
	case be.Uint32(b[32:]) != 0:
		return h, refuse("it is encrypted")
	case h.clusterBits < minCluster || h.clusterBits > maxCluster:
		return h, refuse("clusters of 2^%d bytes; %d to %d are possible", h.clusterBits, minCluster, maxCluster)
	case h.size == 0 || h.size > MaxSize || h.size%sector != 0:
		return h, refuse("a disk of %d bytes: want a multiple of %d, up to %d TiB", h.size, sector, MaxSize>>40)
	}
	if version == 3 {
		if err := h.readV3(b); err != nil {
			return h, err
		}
	}
	return h, h.checkL1(be.Uint32(b[36:]), fileSize)
}

// readV3 judges what version 3 adds.
func (h *header) readV3(b []byte) error {
	if len(b) < lenV3 {
		return refuse("it ends in its header")
	}
	features, length := binary.BigEndian.Uint64(b[72:]), binary.BigEndian.Uint32(b[100:])
	for _, f := range refused {
		if features&f.bit != 0 {
			return refuse("%s", f.what)
		}
	}
	if unknown := features &^ (featDirty | featCompression); unknown != 0 {
		return refuse("features %#x, which this program does not know", unknown)
	}
	if length < lenV3 || length > 1<<h.clusterBits {
		return refuse("a header of %d bytes", length)
	}
	if features&featCompression != 0 {
		if length <= lenV3 || len(b) < lenView {
			return refuse("it ends before its compression type")
		}
		if h.compression = b[lenV3]; h.compression > 1 {
			return refuse("compression of type %d; zlib and zstd are known", h.compression)
		}
	}
	return nil
}

// checkL1 judges the first table: it lies in the file and is long enough for the
// disk, of which it is used as far as that goes.
func (h *header) checkL1(entries uint32, fileSize int64) error {
	perEntry := uint64(1) << (2*h.clusterBits - 3) // bytes of the disk
	need := (h.size + perEntry - 1) / perEntry
	switch {
	case need > maxL1:
		return refuse("a disk of %d bytes in clusters of %d needs a table of %d entries; %d are possible", h.size, 1<<h.clusterBits, need, maxL1)
	case uint64(entries) < need:
		return refuse("its table has %d entries, and the disk needs %d", entries, need)
	case h.l1Offset == 0 || h.l1Offset%(1<<h.clusterBits) != 0 || h.l1Offset > uint64(fileSize) || need*8 > uint64(fileSize)-h.l1Offset:
		return refuse("its table lies outside of the file, or not at a cluster")
	}
	h.l1Size = uint32(need)
	return nil
}

// view is the header that the library is shown: nothing in it leads anywhere but to
// the table that was judged.
func (h *header) view() []byte {
	b := make([]byte, lenView+8) // and the end of the header extensions
	be := binary.BigEndian
	copy(b, magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], h.clusterBits)
	be.PutUint64(b[24:], h.size)
	be.PutUint32(b[36:], h.l1Size)
	be.PutUint64(b[40:], h.l1Offset)
	be.PutUint32(b[96:], 4) // refcount order
	be.PutUint32(b[100:], lenView)
	if h.compression != 0 {
		be.PutUint64(b[72:], featCompression)
		b[lenV3] = h.compression
	}
	return b
}
