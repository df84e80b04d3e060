package snapshot

import (
	"fmt"

	"github.com/hvctl/hvctl/memory"
)

const (
	// MaxMemory bounds the RAM of a snapshot, in bytes.
	MaxMemory = 1 << 40

	pageSize    = memory.PageSize
	chunkPages  = 16
	chunkSize   = chunkPages * pageSize
	memoryStart = 2 << 20 // offset of the first region; every region's alignment
	maxRegions  = 64
)

// Region is one piece of RAM and where it lies in the file. Offset is a
// multiple of 2 MiB, and all Size bytes are below the file's end, so that the
// region can be mapped as it is.
type Region struct {
	GPA    memory.GPA
	Size   uint64 // bytes
	Offset uint64 // in the file
}

// chunks returns how many chunks the region has; the last may be short.
func (r Region) chunks() uint64 { return (r.Size + chunkSize - 1) / chunkSize }

// words returns the length of a bitmap of the region's pages.
func (r Region) words() uint64 { return (r.Size/pageSize + 63) / 64 }

// place gives regions, which have no offsets yet, their places in the file and
// returns the end of the last.
func place(regions []Region) (placed []Region, end uint64, err error) {
	if len(regions) == 0 || len(regions) > maxRegions {
		return nil, 0, fmt.Errorf("%d regions of RAM, want 1 to %d", len(regions), maxRegions)
	}
	var total uint64
	var prev memory.GPA // end of the region before
	off := uint64(memoryStart)
	for i, r := range regions {
		last, ok := r.GPA.Add(r.Size)
		switch {
		case r.Size == 0 || r.Size%pageSize != 0 || uint64(r.GPA)%pageSize != 0:
			return nil, 0, fmt.Errorf("region %v+%#x is not a multiple of %d bytes", r.GPA, r.Size, pageSize)
		case r.Size > MaxMemory || total+r.Size > MaxMemory:
			return nil, 0, fmt.Errorf("region %v+%#x makes more than %d GiB of RAM", r.GPA, r.Size, MaxMemory>>30)
		case !ok || i > 0 && r.GPA < prev:
			return nil, 0, fmt.Errorf("region %v+%#x wraps, or overlaps the one before it", r.GPA, r.Size)
		}
		r.Offset = off
		placed = append(placed, r)
		total, prev, end = total+r.Size, last, off+r.Size
		off = (end + memoryStart - 1) &^ (memoryStart - 1)
	}
	return placed, end, nil
}

// placeOf is place for the RAM of a machine.
func placeOf(ram []memory.Region) (placed []Region, end uint64, err error) {
	regions := make([]Region, len(ram))
	for i, r := range ram {
		if uint64(len(r.Bytes)) != r.Size {
			return nil, 0, fmt.Errorf("region %v of %d bytes has a view of %d", r.GPA, r.Size, len(r.Bytes))
		}
		regions[i] = Region{GPA: r.GPA, Size: r.Size}
	}
	return place(regions)
}

// sameRAM reports whether ram has just the file's regions.
func sameRAM(regions []Region, ram []memory.Region) bool {
	if len(regions) != len(ram) {
		return false
	}
	for i, r := range regions {
		if ram[i].GPA != r.GPA || ram[i].Size != r.Size || uint64(len(ram[i].Bytes)) != r.Size {
			return false
		}
	}
	return true
}
