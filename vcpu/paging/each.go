package paging

import "errors"

// ErrTooMuch is returned when page tables are larger than the limit of a walk.
var ErrTooMuch = errors.New("the guest's page tables are larger than anything sensible")

// Each calls fn for every page of the upper half of the address space, where
// kernels live, or of all of it when the mode has no halves, in the order of
// addresses, until fn returns false. At most tables page tables are read; when
// the guest has more the error is ErrTooMuch. What cannot be read is left out.
func Each(m Mode, read Reader, tables int, fn func(Page) bool) error {
	stages, size := m.format()
	if stages == nil {
		return nil
	}
	w := &walk{m: m, stages: stages, size: size, read: read, left: tables, fn: fn}
	from := uint64(0)
	if m.EFER&eferLMA != 0 {
		from = 1 << (stages[0].bits - 1)
	}
	w.table(0, m.root(stages), from, 0, writable|user)
	return w.err
}

type walk struct {
	m      Mode
	stages []level
	size   int
	read   Reader
	left   int
	fn     func(Page) bool
	err    error
}

// table walks one page table of stage i from an index on; it returns false when
// the walk is over.
func (w *walk) table(i int, at, from, base, rights uint64) bool {
	if w.left == 0 {
		w.err = ErrTooMuch
		return false
	}
	w.left--
	l := w.stages[i]
	for index := from; index < 1<<l.bits; index++ {
		e, err := w.read(at+index*uint64(w.size), w.size)
		if err != nil {
			return true // a table outside RAM: nothing is mapped by it
		}
		if e&present == 0 {
			continue
		}
		va := base | index<<l.shift
		if i == 0 && w.m.EFER&eferLMA != 0 {
			va |= ^uint64(0) << (l.shift + l.bits)
		}
		r := rights & e
		if len(w.stages) == len(levelsPAE) && i == 0 {
			r = rights
		}
		switch {
		case w.m.leaf(w.stages, i, e):
			if !w.fn(pageOf(l, e, w.size, r, va)) {
				return false
			}
		case !w.table(i+1, e&addrMask, 0, va, r):
			return false
		}
	}
	return true
}
