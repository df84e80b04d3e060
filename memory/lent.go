package memory

import "fmt"

// lent is memory of a device beside the RAM.
type lent struct {
	Region
	readOnly bool
}

// Lend lets devices find the buffers that a driver names inside [at, at+len(mem)) in
// mem, which is none of the RAM: no ring or table can lie there, nothing of it is in
// Regions or gets dirty. Who reads or writes such a buffer has to bear a SIGBUS, for
// a file behind mem may have been shrunk. Preconditions: the guest does not run yet;
// mem outlives the last access, and no other memory is at that place.
func (g *Guest) Lend(at GPA, mem []byte, readOnly bool) {
	g.lent = append(g.lent, lent{Region{GPA: at, Size: uint64(len(mem)), Bytes: mem}, readOnly})
}

// Lent returns what was lent; the Offset of such a region means nothing.
func (g *Guest) Lent() (all []Region) {
	for _, l := range g.lent {
		all = append(all, l.Region)
	}
	return all
}

// Buffer is Slice for the buffer of a descriptor, which may also lie in memory that
// was lent, where a device that writes to it may write. Errors wrap ErrOutOfRange.
func (g *Guest) Buffer(a GPA, n uint64, write bool) ([]byte, error) {
	for i := range g.lent {
		l := &g.lent[i]
		if a < l.GPA || uint64(a-l.GPA) >= l.Size {
			continue
		}
		off := uint64(a - l.GPA)
		if n > l.Size-off || write && l.readOnly {
			return nil, fmt.Errorf("%w: %v+%#x in the memory of a device (write: %v)", ErrOutOfRange, a, n, write)
		}
		return l.Bytes[off : off+n : off+n], nil
	}
	return g.Slice(a, n)
}
