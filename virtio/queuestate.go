package virtio

import (
	"fmt"
	"math/bits"

	"github.com/hvctl/hvctl/memory"
)

// QueueState is all of a virtqueue that outlives a pause: plain data, written
// by the driver through registers or loaded from a file, and not to be trusted
// before check has passed it.
type QueueState struct {
	Size      uint16     `json:"size"` // entries
	Enabled   bool       `json:"enabled"`
	Desc      memory.GPA `json:"desc"`  // descriptor table
	Avail     memory.GPA `json:"avail"` // driver area: avail ring
	Used      memory.GPA `json:"used"`  // device area: used ring
	NextAvail uint16     `json:"next_avail"`
	NextUsed  uint16     `json:"next_used"`
}

// MaxQueueSize is the largest queue a device may have (§2.7).
const MaxQueueSize = 32768

// Sizes of the three parts in bytes, with the event index words (§2.7).
func (s QueueState) descLen() uint64  { return 16 * uint64(s.Size) }
func (s QueueState) availLen() uint64 { return 6 + 2*uint64(s.Size) }
func (s QueueState) usedLen() uint64  { return 6 + 8*uint64(s.Size) }

// check validates what an enabled queue needs: a size that is a power of two up
// to limit, three aligned parts inside RAM, and indices no further apart than
// the size. Errors wrap ErrGuest.
func (s QueueState) check(mem *memory.Guest, limit uint16) error {
	if bits.OnesCount16(s.Size) != 1 || s.Size > limit {
		return GuestErrorf("queue size %d is no power of two up to %d", s.Size, limit)
	}
	for _, p := range [...]struct {
		name  string
		at    memory.GPA
		n     uint64
		align uint64
	}{
		{"descriptor table", s.Desc, s.descLen(), 16},
		{"avail ring", s.Avail, s.availLen(), 2},
		{"used ring", s.Used, s.usedLen(), 4},
	} {
		if uint64(p.at)%p.align != 0 {
			return GuestErrorf("%s at %v is not aligned to %d", p.name, p.at, p.align)
		}
		if _, err := mem.Slice(p.at, p.n); err != nil {
			return GuestErrorf("%s: %w", p.name, err)
		}
	}
	if d := s.NextAvail - s.NextUsed; d > s.Size {
		return GuestErrorf("queue indices %d and %d are further apart than its size %d", s.NextAvail, s.NextUsed, s.Size)
	}
	return nil
}

// RingPart names one of the three addresses of a queue.
type RingPart int

// The parts of a virtqueue (§2.6).
const (
	PartDesc RingPart = iota
	PartAvail
	PartUsed
)

// part returns the address that p names.
func (s *QueueState) part(p RingPart) *memory.GPA {
	switch p {
	case PartAvail:
		return &s.Avail
	case PartUsed:
		return &s.Used
	default:
		return &s.Desc
	}
}

// Part returns the place of a part of the queue and its length in bytes, with
// the event index words.
func (s QueueState) Part(p RingPart) (memory.GPA, uint64) {
	n := s.descLen()
	switch p {
	case PartAvail:
		n = s.availLen()
	case PartUsed:
		n = s.usedLen()
	case PartDesc:
	}
	return *s.part(p), n
}

// String names the part for messages.
func (p RingPart) String() string {
	if p < PartDesc || p > PartUsed {
		return fmt.Sprintf("part %d", int(p))
	}
	return [...]string{"descriptor table", "avail ring", "used ring"}[p]
}
