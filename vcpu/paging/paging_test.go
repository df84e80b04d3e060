package paging_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/vcpu/paging"
)

// ram is a small guest memory that page tables are in.
type ram []byte

var errOutside = errors.New("outside")

func (r ram) read(gpa uint64, size int) (uint64, error) {
	if gpa > uint64(len(r)) || uint64(size) > uint64(len(r))-gpa {
		return 0, errOutside
	}
	if size == 4 {
		return uint64(binary.LittleEndian.Uint32(r[gpa:])), nil
	}
	return binary.LittleEndian.Uint64(r[gpa:]), nil
}

func (r ram) put(gpa, e uint64)          { binary.LittleEndian.PutUint64(r[gpa:], e) }
func (r ram) put32(gpa uint64, e uint32) { binary.LittleEndian.PutUint32(r[gpa:], e) }

var (
	off    = paging.Mode{}
	mode32 = paging.Mode{CR0: 1 << 31, CR3: 0x1000, CR4: 1 << 4}
	pae    = paging.Mode{CR0: 1 << 31, CR3: 0x1020, CR4: 1 << 5}
	four   = paging.Mode{CR0: 1 << 31, CR3: 0x1000, CR4: 1 << 5, EFER: 1 << 10}
	five   = paging.Mode{CR0: 1 << 31, CR3: 0x1000, CR4: 1<<5 | 1<<12, EFER: 1 << 10}
)

func TestTranslateReadsEveryFormat(t *testing.T) {
	type entry struct{ at, e uint64 }
	for _, tc := range []struct {
		name   string
		mode   paging.Mode
		tables []entry
		narrow bool
		va     uint64
		want   string
	}{
		{"paging off", off, nil, false, 0x12345, "12000 at 12000, 1000 wu"},
		{
			"4 KiB", four,
			[]entry{{0x1ff8, 0x2003}, {0x2ff0, 0x3003}, {0x3000, 0x4003}, {0x4008, 0x5001}},
			false,
			0xffffffff80001234, "ffffffff80001000 at 5000, 1000",
		},
		{"2 MiB", four, []entry{{0x1000, 0x2007}, {0x2000, 0x3007}, {0x3008, 0x400087}}, false, 0x234567, "200000 at 400000, 200000 wu"},
		{"1 GiB", four, []entry{{0x1000, 0x2007}, {0x2008, 0xc0000083}}, false, 0x7fffffff, "40000000 at c0000000, 40000000 w"},
		{
			"five levels", five,
			[]entry{{0x1ff8, 0x2003}, {0x2ff8, 0x3003}, {0x3ff8, 0x80000083}},
			false,
			0xffffffffffffffff, "ffffffffc0000000 at 80000000, 40000000 w",
		},
		{"PAE", pae, []entry{{0x1038, 0x2001}, {0x2000, 0x800083}}, false, 0xc0001234, "c0000000 at 800000, 200000 w"},
		{"32 bits", mode32, []entry{{0x1004, 0x2003}, {0x2004, 0x9001}}, true, 0x401234, "401000 at 9000, 1000"},
		{"4 MiB above 4 GiB", mode32, []entry{{0x1004, 0x00c02083}}, true, 0x400000, "400000 at 100c00000, 400000 w"},
		{"nothing there", four, nil, false, 0x1000, "not mapped"},
		{"not canonical", four, nil, false, 0x0000_8000_0000_0000, "not canonical"},
		{"more than 32 bits", mode32, nil, true, 1 << 32, "not canonical"},
		{"a table outside", four, []entry{{0x1000, 0x7ff0007}}, false, 0x1000, "outside"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := make(ram, 64<<10)
			for _, e := range tc.tables {
				if tc.narrow {
					r.put32(e.at, uint32(e.e))
				} else {
					r.put(e.at, e.e)
				}
			}
			p, err := paging.Translate(tc.mode, r.read, tc.va)
			got := describe(p)
			if err != nil {
				got = err.Error()
			}
			if got != tc.want && (err == nil || !strings.Contains(got, tc.want)) {
				t.Errorf("%#x: %s, want %s", tc.va, got, tc.want)
			}
		})
	}
}

func describe(p paging.Page) string {
	s := fmt.Sprintf("%x at %x, %x", p.Virtual, p.GPA, p.Size)
	if p.Writable || p.User {
		s += " "
	}
	if p.Writable {
		s += "w"
	}
	if p.User {
		s += "u"
	}
	return s
}

func TestEachSeesTheKernelsHalfInOrder(t *testing.T) {
	r := make(ram, 64<<10)
	r.put(0x1000, 0x2003) // user half: not looked at
	r.put(0x1800, 0x2003) // the direct map's place
	r.put(0x1ff8, 0x3003)
	r.put(0x2000, 0x83)   // 1 GiB
	r.put(0x3ff0, 0x4003) // ffffffff80000000
	r.put(0x4008, 0x1000083)
	var got []string
	if err := paging.Each(four, r.read, 100, func(p paging.Page) bool { got = append(got, describe(p)); return true }); err != nil {
		t.Fatal(err)
	}
	want := "[ffff800000000000 at 0, 40000000 w ffffffff80200000 at 1000000, 200000 w]"
	if fmt.Sprint(got) != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestEachGivesUpOnTablesThatNeverEnd(t *testing.T) {
	r := make(ram, 8<<10)
	for i := uint64(0); i < 512; i++ {
		r.put(0x1000+8*i, 0x1003) // every entry leads back
	}
	pages := 0
	err := paging.Each(four, r.read, 50, func(paging.Page) bool { pages++; return true })
	if !errors.Is(err, paging.ErrTooMuch) || pages > 50*512 {
		t.Errorf("%v after %d pages", err, pages)
	}
}

func FuzzTranslate(f *testing.F) {
	f.Add([]byte{3, 0x10, 0, 0, 0, 0, 0, 0}, uint64(0x1234), uint64(1<<31), uint64(1<<5), uint64(1<<10))
	f.Fuzz(func(t *testing.T, tables []byte, va, cr0, cr4, efer uint64) {
		r := make(ram, 16<<10)
		for at := 0; len(tables) > 0 && at < len(r); at += len(tables) {
			copy(r[at:], tables)
		}
		reads := 0
		read := func(gpa uint64, size int) (uint64, error) { reads++; return r.read(gpa, size) }
		m := paging.Mode{CR0: cr0, CR3: 0x1000, CR4: cr4, EFER: efer}
		p, err := paging.Translate(m, read, va)
		if reads > 5 {
			t.Errorf("%d entries read for one address", reads)
		}
		if err == nil && (va < p.Virtual || va-p.Virtual >= p.Size || p.GPA%p.Size != 0) {
			t.Errorf("%#x is not in %+v", va, p)
		}
		_ = paging.Each(m, read, 20, func(paging.Page) bool { return true })
		if reads > 5+20*1024 {
			t.Errorf("%d entries read for all", reads)
		}
	})
}
