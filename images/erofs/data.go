package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// Data is where the contents of a regular file are in an image. It comes from
// Writer.WriteData and is valid for that Writer only; the zero value is an
// empty file.
type Data struct {
	size      uint64
	start     uint32 // first block of the file's blocks, which are one range
	blocks    uint32
	tail      []byte // last, partial block when it is stored with the inode
	chunkBits uint8  // sparse files: log2 of the blocks of a chunk
	chunks    []uint32
	id        int // index+1 into Writer.ranges
}

// Size returns the file's length in bytes, holes included.
func (d Data) Size() uint64 { return d.size }

const (
	// minChunk is the smallest run of zeros that becomes a hole. Smaller
	// runs are common in programs; mapping them away costs more than it
	// gains.
	minChunk = 64 << 10
	// maxChunks bounds the index of a sparse file: chunks grow with its size.
	maxChunks = 16384
	// maxTail is the longest tail stored beside an inode. Longer ones would
	// waste more room by pushing inodes to the next block than they save. Files of
	// more than a block have theirs in a block: Linux maps such files from memory
	// (DAX) only when all of them is in blocks of their own.
	maxTail = 2048
	// tailBudget bounds the memory that waiting tails may take in all.
	tailBudget = 64 << 20
)

// chunkSize returns the size of a chunk for a file of this size.
func chunkSize(size uint64) uint64 {
	c := uint64(minChunk)
	if want := size / maxChunks; want > c {
		c = 1 << bits.Len64(want-1)
	}
	return c
}

// WriteData stores the contents of one regular file: exactly size bytes are
// read from r. Chunks of zeros become holes. After an error the Writer is of no
// further use.
func (w *Writer) WriteData(r io.Reader, size uint64) (Data, error) {
	d := Data{size: size, start: w.next}
	if size == 0 {
		return Data{}, nil
	}
	chunk := chunkSize(size)
	if bits.TrailingZeros64(chunk)-blockBits > chunkBitsMax {
		return d, fmt.Errorf("%w: file of %d bytes", ErrTooLarge, size)
	}
	d.chunkBits = uint8(bits.TrailingZeros64(chunk) - blockBits)

	tail := size % BlockSize
	if tail > maxTail || size > BlockSize || w.tails+tail > tailBudget {
		tail = 0
	}
	holes := false
	for at := uint64(0); at < size-tail; at += chunk {
		n := min(chunk, size-tail-at)
		first, err := w.writeChunk(r, n)
		if err != nil {
			return d, err
		}
		d.chunks = append(d.chunks, first)
		holes = holes || first == nullBlock
	}
	if tail > 0 {
		d.tail = make([]byte, tail)
		if err := readFull(r, d.tail); err != nil {
			return d, err
		}
		w.tails += tail
	}
	if !holes {
		d.chunks, d.chunkBits = nil, 0
	}
	d.blocks = w.next - d.start
	w.ranges = append(w.ranges, blockRange{d.start, d.blocks})
	d.id = len(w.ranges)
	return d, nil
}

var zeroBlock [BlockSize]byte

// writeChunk copies n bytes and returns their first block, or nullBlock without
// taking any block when all of them are zero.
func (w *Writer) writeChunk(r io.Reader, n uint64) (uint32, error) {
	first, taken := uint32(nullBlock), false
	for at := uint64(0); at < n; {
		buf := w.buf[:min(uint64(len(w.buf)), n-at)]
		if err := readFull(r, buf); err != nil {
			return 0, err
		}
		if !isZero(buf) {
			if !taken {
				var err error
				if first, err = w.alloc((n + BlockSize - 1) / BlockSize); err != nil {
					return 0, err
				}
				taken = true
			}
			if err := w.writeAt(buf, first, at); err != nil {
				return 0, err
			}
		}
		at += uint64(len(buf))
	}
	if !taken && n < minChunk {
		// Too short for a hole: blocks that are never written read as zeros.
		return w.alloc((n + BlockSize - 1) / BlockSize)
	}
	return first, nil
}

func readFull(r io.Reader, p []byte) error {
	if _, err := io.ReadFull(r, p); err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

func isZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), BlockSize)
		if !bytes.Equal(p[:n], zeroBlock[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}
