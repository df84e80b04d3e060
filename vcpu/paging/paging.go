package paging

import (
	"errors"
	"fmt"
)

// ErrNotMapped is wrapped when no page is at an address.
var ErrNotMapped = errors.New("not mapped")

// Mode is what the paging mode of a vCPU follows from.
type Mode struct {
	CR0, CR3, CR4, EFER uint64
}

// Bits of Mode.
const (
	cr0PG   = 1 << 31
	cr4PSE  = 1 << 4
	cr4PAE  = 1 << 5
	cr4LA57 = 1 << 12
	eferLMA = 1 << 10
)

// Bits of an entry, and the addresses in it.
const (
	present  = 1 << 0
	writable = 1 << 1
	user     = 1 << 2
	large    = 1 << 7
	addrMask = 0x000f_ffff_ffff_f000
)

// Reader reads one entry of a page table: size bytes, 4 or 8, at a guest
// physical address, little-endian.
type Reader func(gpa uint64, size int) (uint64, error)

// Page is what one entry maps.
type Page struct {
	Virtual  uint64 // of its first byte
	GPA      uint64 // the same, guest physical
	Size     uint64 // bytes, a power of two
	Writable bool   // by every entry on the way
	User     bool   // likewise
}

// level is one stage of a walk: where the index is in the virtual address, how
// wide, and whether an entry can be a page itself.
type level struct {
	shift, bits uint
	page        bool
}

var (
	levels57  = []level{{48, 9, false}, {39, 9, false}, {30, 9, true}, {21, 9, true}, {12, 9, true}}
	levels48  = levels57[1:]
	levelsPAE = []level{{30, 2, false}, {21, 9, true}, {12, 9, true}}
	levels32  = []level{{22, 10, true}, {12, 10, true}}
)

// format returns the stages of the mode, and the size of an entry in bytes. No
// stages: paging is off.
func (m Mode) format() (stages []level, entry int) {
	switch {
	case m.CR0&cr0PG == 0:
		return nil, 0
	case m.EFER&eferLMA != 0 && m.CR4&cr4LA57 != 0:
		return levels57, 8
	case m.EFER&eferLMA != 0:
		return levels48, 8
	case m.CR4&cr4PAE != 0:
		return levelsPAE, 8
	default:
		return levels32, 4
	}
}

// root is where the first table is.
func (m Mode) root(stages []level) uint64 {
	if len(stages) == len(levelsPAE) {
		return m.CR3 & 0xffff_ffe0
	}
	return m.CR3 & addrMask
}

// Translate finds the page of a virtual address, as the vCPU would, but for
// access rights. Without paging every address is its own, in pages of 4 KiB.
// Errors wrap ErrNotMapped, or are the reader's.
func Translate(m Mode, read Reader, va uint64) (Page, error) {
	stages, size := m.format()
	if stages == nil {
		at := va &^ 0xfff
		return Page{Virtual: at, GPA: at, Size: 4096, Writable: true, User: true}, nil
	}
	if !m.canonical(stages, va) {
		return Page{}, fmt.Errorf("%#x: %w: not canonical", va, ErrNotMapped)
	}
	table, rights := m.root(stages), uint64(writable|user)
	for i, l := range stages {
		index := va >> l.shift & (1<<l.bits - 1)
		e, err := read(table+index*uint64(size), size)
		if err != nil {
			return Page{}, fmt.Errorf("page table entry at %#x: %w", table+index*uint64(size), err)
		}
		if e&present == 0 {
			return Page{}, fmt.Errorf("%#x: %w", va, ErrNotMapped)
		}
		if !(len(stages) == len(levelsPAE) && i == 0) { // PDPTEs of PAE have no rights
			rights &= e
		}
		if m.leaf(stages, i, e) {
			return pageOf(l, e, size, rights, va), nil
		}
		table = e & addrMask
	}
	return Page{}, fmt.Errorf("%#x: %w", va, ErrNotMapped)
}

// canonical tells whether the walk says anything about va.
func (m Mode) canonical(stages []level, va uint64) bool {
	if m.EFER&eferLMA == 0 {
		return va>>32 == 0
	}
	top := stages[0].shift + stages[0].bits - 1
	sign := int64(va) >> top
	return sign == 0 || sign == -1
}

// leaf tells whether entry e of stage i maps a page.
func (m Mode) leaf(stages []level, i int, e uint64) bool {
	if i == len(stages)-1 {
		return true
	}
	if e&large == 0 || !stages[i].page {
		return false
	}
	return len(stages) != len(levels32) || m.CR4&cr4PSE != 0
}

// pageOf is the page that entry e of stage l maps around va.
func pageOf(l level, e uint64, entry int, rights, va uint64) Page {
	size := uint64(1) << l.shift
	gpa := e & addrMask &^ (size - 1)
	if entry == 4 && l.shift == 22 { // PSE-36: bits 13 to 20 are 32 to 39 of the address
		gpa |= e >> 13 & 0xff << 32
	}
	return Page{Virtual: va &^ (size - 1), GPA: gpa, Size: size, Writable: rights&writable != 0, User: rights&user != 0}
}
