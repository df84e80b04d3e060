// Package sparse finds the holes of a file that holds guest RAM, be it a memfd
// or a snapshot. Reading a hole of a memfd through its mapping would make the
// page; asking does not.
package sparse

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
)

// Data returns the bitmap of the pages in [off, off+size) of the file that may
// hold something else than zeroes; bit n of word w is page 64*w+n after off.
// Both numbers are multiples of the page size. A file system that knows no
// holes answers with all pages.
func Data(fd int, off, size uint64) ([]uint64, error) {
	bitmap := make([]uint64, (size/memory.PageSize+63)/64)
	end := off + size
	for at := off; at < end; {
		from, err := unix.Seek(fd, int64(at), unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but holes follows
			break
		}
		if err != nil {
			return nil, fmt.Errorf("find data in a memory file: %w", os.NewSyscallError("lseek", err))
		}
		if uint64(from) >= end {
			break
		}
		to, err := unix.Seek(fd, from, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("find holes in a memory file: %w", os.NewSyscallError("lseek", err))
		}
		at = min(uint64(to), end)
		SetRun(bitmap, (uint64(from)-off)/memory.PageSize, (at-off+memory.PageSize-1)/memory.PageSize)
	}
	return bitmap, nil
}

// SetRun sets the bits [from, to).
func SetRun(bitmap []uint64, from, to uint64) {
	for from < to {
		bit := from % 64
		n := min(64-bit, to-from)
		bitmap[from/64] |= (^uint64(0) >> (64 - n)) << bit
		from += n
	}
}

// Fill returns a bitmap with the first n bits set.
func Fill(n uint64) []uint64 {
	bitmap := make([]uint64, (n+63)/64)
	SetRun(bitmap, 0, n)
	return bitmap
}

var zeroes [memory.PageSize]byte

// IsZero reports whether a page holds nothing but zeroes.
func IsZero(page []byte) bool { return bytes.Equal(page, zeroes[:]) }
