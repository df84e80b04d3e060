package memory_test

import (
	"errors"
	"testing"

	"github.com/hvctl/hvctl/memory"
)

func TestBuffersMayLieInLentMemory(t *testing.T) {
	g := newGuest(t, memory.Options{Size: 1 << 20})
	own, other := make([]byte, memory.PageSize), make([]byte, memory.PageSize)
	own[9], other[9] = 1, 2
	g.Lend(1<<20, own, false)
	g.Lend(1<<30, other, true)
	for _, c := range []struct {
		at    memory.GPA
		n     uint64
		write bool
		first byte // 0xff: refused
	}{
		{9, 1, true, 0},
		{1<<20 + 9, memory.PageSize - 9, true, 1},
		{1<<30 + 9, memory.PageSize - 9, false, 2},
		{1<<30 + 9, 1, true, 0xff},
		{1<<30 + 9, memory.PageSize - 8, false, 0xff},
		{1<<30 + 9, ^uint64(0), false, 0xff},
		{1<<20 - 1, 2, false, 0xff}, // RAM and what lies behind it
		{1<<30 + memory.PageSize, 1, false, 0xff},
	} {
		b, err := g.Buffer(c.at, c.n, c.write)
		if refused := errors.Is(err, memory.ErrOutOfRange); refused != (c.first == 0xff) || !refused && (err != nil || uint64(len(b)) != c.n || b[0] != c.first) {
			t.Errorf("%v+%#x, write %v: %d bytes, %v", c.at, c.n, c.write, len(b), err)
		}
	}
	var v memory.Vec
	v.Append(own)
	g.MarkVecDirty(v, len(own))
	if n := g.Dirty().Count(); n != 0 {
		t.Errorf("%d pages of RAM are dirty", n)
	}
	for _, at := range []memory.GPA{1 << 20, 1 << 30} { // rings and tables cannot lie there
		if _, err := g.Slice(at, 2); !errors.Is(err, memory.ErrOutOfRange) {
			t.Errorf("Slice: %v", err)
		}
		if _, err := g.LoadUint16(at); !errors.Is(err, memory.ErrOutOfRange) {
			t.Errorf("LoadUint16: %v", err)
		}
	}
	if all := g.Lent(); len(all) != 2 || all[1].GPA != 1<<30 || all[1].Size != memory.PageSize || &all[1].Bytes[0] != &other[0] {
		t.Errorf("lent: %+v", all)
	}
}
