package lazy

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/hvctl/hvctl/internal/uffd"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

// Descriptors of the process that calls Serve.
const (
	linkFD = 3 + iota
	uffdFD
	snapshotFD // or listening socket
	missingFD  // bitmaps, with a listening socket only
)

// layout is what that process is told in its argument.
type layout struct {
	Regions []place `json:"regions"` // in the snapshot's order
	// WorkingSet is the file of that name; empty: neither read nor written.
	WorkingSet string `json:"workingSet,omitempty"`
	LostFile   string `json:"lostFile,omitempty"` // takes the reason when memory cannot be read
	Owner      int    `json:"owner"`              // process ID of who touches the memory
	// Remote is set when pages come from another host instead of a snapshot.
	Remote *remote `json:"remote,omitempty"`
}

// place is where a region lies in the owner's memory.
type place struct {
	Addr uint64 `json:"addr"`
	Size uint64 `json:"size"`
}

func (l layout) encode() string {
	b, _ := json.Marshal(l) // numbers and a string
	return string(b)
}

func decodeLayout(s string) (l layout, err error) {
	if err := json.Unmarshal([]byte(s), &l); err != nil {
		return l, fmt.Errorf("layout: %w", err)
	}
	return l, nil
}

// fits makes sure that the snapshot is that of the memory.
func (l layout) fits(s *snapshot.Snapshot) error {
	regions := s.Regions()
	if _, diff := s.Base(); diff || len(regions) != len(l.Regions) {
		return fmt.Errorf("the snapshot has %d regions (diff: %v), the memory %d", len(regions), diff, len(l.Regions))
	}
	for i, r := range regions {
		if r.Size != l.Regions[i].Size || l.Regions[i].Addr%uffd.PageSize != 0 {
			return fmt.Errorf("region %d of the snapshot has %d bytes, the memory's %d at %#x", i, r.Size, l.Regions[i].Size, l.Regions[i].Addr)
		}
	}
	return nil
}

// chunk names a piece of memory: what is read at once.
type chunk struct {
	region int
	n      uint64
}

// at is the chunk that an address lies in.
func (l layout) at(addr uint64) (chunk, bool) {
	for i, r := range l.Regions {
		if addr >= r.Addr && addr-r.Addr < r.Size {
			return chunk{i, (addr - r.Addr) / snapshot.ChunkSize}, true
		}
	}
	return chunk{}, false
}

// has tells whether there is such a chunk.
func (l layout) has(c chunk) bool {
	return c.region >= 0 && c.region < len(l.Regions) && c.n < l.chunks(c.region)
}

func (l layout) chunks(region int) uint64 {
	return (l.Regions[region].Size + snapshot.ChunkSize - 1) / snapshot.ChunkSize
}

// bounds are a chunk's address and length.
func (l layout) bounds(c chunk) (addr, size uint64) {
	r := l.Regions[c.region]
	off := c.n * snapshot.ChunkSize
	return r.Addr + off, min(snapshot.ChunkSize, r.Size-off)
}

// fdFile names an inherited descriptor.
func fdFile(fd int, name string) *os.File { return os.NewFile(uintptr(fd), name) }
