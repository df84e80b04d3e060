package boot

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/hvctl/hvctl/memory"
)

// Memory is guest RAM as Load needs it, before any vCPU runs; *memory.Guest
// satisfies it.
type Memory interface {
	// LoadFrom copies n bytes of r at off to a; they lie in one region.
	LoadFrom(r io.ReaderAt, off int64, a memory.GPA, n uint64) error
	// WriteAt copies p to a.
	WriteAt(p []byte, a memory.GPA) error
}

// Region is a range of guest physical addresses.
type Region struct {
	GPA  memory.GPA
	Size uint64 // bytes
}

// End is the first address after the region. Regions that reach Load wrapped
// around 2^64 are refused before End is used.
func (r Region) End() memory.GPA { return r.GPA + memory.GPA(r.Size) }

func (r Region) String() string { return fmt.Sprintf("%v-%v", r.GPA, r.End()) }

func (r Region) overlaps(o Region) bool { return r.GPA < o.End() && o.GPA < r.End() }

// checkRegions sorts a copy of rs by address and refuses empty, wrapping and
// overlapping ones.
func checkRegions(what string, rs []Region) ([]Region, error) {
	out := slices.Clone(rs)
	slices.SortFunc(out, func(a, b Region) int { return cmp.Compare(a.GPA, b.GPA) })
	for i, r := range out {
		if end, ok := r.GPA.Add(r.Size); r.Size == 0 || !ok || end == 0 {
			return nil, fmt.Errorf("%w: %s region at %v has size %#x", ErrParams, what, r.GPA, r.Size)
		}
		if i > 0 && out[i-1].overlaps(r) {
			return nil, fmt.Errorf("%w: %s regions %v and %v overlap", ErrParams, what, out[i-1], r)
		}
	}
	return out, nil
}

// subtract returns what is left of the sorted, disjoint regions rs without
// hole, still sorted.
func subtract(rs []Region, hole Region) []Region {
	if hole.Size == 0 {
		return rs
	}
	var out []Region
	for _, r := range rs {
		if !r.overlaps(hole) {
			out = append(out, r)
			continue
		}
		if r.GPA < hole.GPA {
			out = append(out, Region{r.GPA, uint64(hole.GPA - r.GPA)})
		}
		if hole.End() < r.End() {
			out = append(out, Region{hole.End(), uint64(r.End() - hole.End())})
		}
	}
	return out
}

// contains says whether one of rs holds all of r.
func contains(rs []Region, r Region) bool {
	for _, have := range rs {
		if r.GPA >= have.GPA && r.End() <= have.End() {
			return true
		}
	}
	return false
}
