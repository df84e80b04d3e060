package memory

import "golang.org/x/sys/unix"

// SetLate says whether pages of the RAM may be missing that another process fills in
// when they are touched (userfaultfd). While they may, every access through g first
// has its pages brought in a system call: a goroutine that waited in a page fault of
// its own would hold up the garbage collector, and so the whole process. It waits
// for as long as it takes. Before Linux 5.14 the access itself waits.
func (g *Guest) SetLate(on bool) {
	if on {
		g.late.Store(NewBitmap(g.dirty.Pages()))
	} else {
		g.late.Store(nil)
	}
}

// reach is find, and returns when the bytes are there.
func (g *Guest) reach(a GPA, n uint64) (*Region, uint64, error) {
	r, off, err := g.find(a, n)
	if err == nil && n > 0 {
		if there := g.late.Load(); there != nil {
			g.bring(there, r.Offset+off, n)
		}
	}
	return r, off, err
}

// bring has the pages of n bytes at a file offset brought that are not known to be
// there.
func (g *Guest) bring(there *Bitmap, off, n uint64) {
	end := (off + n - 1) / PageSize
	for p := off / PageSize; p <= end; p++ {
		first := p
		for p <= end && !there.Has(p) {
			p++
		}
		if p > first && unix.Madvise(g.mem[first*PageSize:p*PageSize], unix.MADV_POPULATE_READ) == nil {
			there.Set(first, p-first)
		}
	}
}
