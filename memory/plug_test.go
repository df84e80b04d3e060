package memory_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
)

const (
	unit  = memory.HugePageSize
	above = 4 << 30
)

// growing makes RAM with four blocks more that the guest lacks.
func growing(t testing.TB) (*memory.Guest, *memory.Pluggable) {
	t.Helper()
	g, err := memory.New(memory.Options{Size: 4 << 20, Pluggable: memory.Span{GPA: above, Size: 4 * unit}, Block: unit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g, g.Pluggable()
}

// allocated is how much of the file behind g is there, in bytes.
func allocated(t testing.TB, g *memory.Guest) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(g.FD(), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatTheGuestLacksCannotBeReached(t *testing.T) {
	g, p := growing(t)
	check(t, p.Plug(1, 2))
	if p.Plugged() != 2*unit || p.Count(0, 4) != 2 || p.Count(1, 2) != 2 || p.Count(3, 1) != 0 {
		t.Errorf("%d bytes, %d of 4 blocks", p.Plugged(), p.Count(0, 4))
	}
	for name, c := range map[string]struct {
		at   memory.GPA
		n    uint64
		want bool
	}{
		"before":             {above + unit - 1, 1, false},
		"all that there is":  {above + unit, 2 * unit, true},
		"over the beginning": {above + unit - 8, 16, false},
		"over the end":       {above + 3*unit - 8, 16, false},
		"behind":             {above + 3*unit, 0, false},
		"over two blocks":    {above + 2*unit - 8, 16, true},
	} {
		b := make([]byte, c.n)
		_, hva := g.HVA(c.at, c.n)
		_, slice := g.Slice(c.at, c.n)
		_, buffer := g.Buffer(c.at, c.n, true)
		for what, err := range map[string]error{"HVA": hva, "Slice": slice, "Buffer": buffer, "ReadAt": g.ReadAt(b, c.at), "WriteAt": g.WriteAt(b, c.at), "Release": g.Release(c.at, c.n)} {
			if (err == nil) != c.want || err != nil && !errors.Is(err, memory.ErrOutOfRange) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
	}
	if _, err := g.LoadUint16(above + 3*unit); !errors.Is(err, memory.ErrOutOfRange) {
		t.Errorf("LoadUint16: %v", err)
	}
}

func TestMemoryThatIsTakenIsGone(t *testing.T) {
	g, p := growing(t)
	before := allocated(t, g)
	check(t, p.Plug(0, 2))
	check(t, g.WriteAt(bytes.Repeat([]byte{7}, 2*unit), above))
	late, err := g.Slice(above, 1) // of a device that is still at work
	check(t, err)
	if n := allocated(t, g) - before; n != 2*unit {
		t.Errorf("%d bytes in use", n)
	}
	g.Dirty().Clear()
	check(t, p.Unplug(0, 2))
	if n := allocated(t, g); n != before {
		t.Errorf("%d bytes in use, were %d", n, before)
	}
	if n := g.Dirty().Count(); n != 2*unit/memory.PageSize {
		t.Errorf("%d pages are dirty", n)
	}
	late[0] = 9
	check(t, p.Plug(0, 1))
	if b, err := g.Slice(above, 1); err != nil || b[0] != 0 {
		t.Errorf("what was given back has %v, %v", b, err)
	}
}

// Whoever fills memory in before the guest is told what it has may also empty it.
func TestWhatIsFilledInBeforeItIsPluggedIn(t *testing.T) {
	g, p := growing(t)
	before := allocated(t, g)
	r := g.Regions()[len(g.Regions())-1]
	clear(r.Bytes[:2*memory.PageSize])
	r.Bytes[unit] = 7
	check(t, g.Discard(above, 2*memory.PageSize))
	if n := allocated(t, g) - before; n != memory.PageSize {
		t.Errorf("%d bytes in use", n)
	}
	check(t, p.SetBlocks([]uint64{2}))
	if b, err := g.Slice(above+unit, 1); err != nil || b[0] != 7 {
		t.Errorf("what was filled in is %v, %v", b, err)
	}
	if err := g.Discard(above+4*unit-1, 2); !errors.Is(err, memory.ErrOutOfRange) {
		t.Errorf("behind the region: %v", err)
	}
}

// What the kernel is given fails where the guest lacks memory, and makes no page.
func TestTheKernelHasOnlyWhatTheGuestHas(t *testing.T) {
	g, p := growing(t)
	check(t, p.Plug(2, 1))
	check(t, g.WriteAt([]byte{7}, above+2*unit))
	r := g.Regions()[len(g.Regions())-1]
	if !r.Pluggable() || r.GPA != above || g.Regions()[0].Pluggable() || &g.Regions()[0].Slot()[0] != &g.Regions()[0].Bytes[0] {
		t.Fatalf("regions %v", g.Regions())
	}
	var pipe [2]int
	check(t, unix.Pipe(pipe[:]))
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	was := allocated(t, g)
	for at, want := range map[int]error{2 * unit: nil, 3*unit - 1: nil, 2*unit - 1: unix.EFAULT, 3 * unit: unix.EFAULT, 0: unix.EFAULT} {
		if _, err := unix.Write(pipe[1], r.Slot()[at:at+1]); !errors.Is(err, want) {
			t.Errorf("read at %#x: %v", at, err)
		}
	}
	if _, err := unix.Read(pipe[0], r.Slot()[:1]); !errors.Is(err, unix.EFAULT) {
		t.Errorf("write: %v", err)
	}
	if n := allocated(t, g); n > was+memory.PageSize { // the last byte of the block
		t.Errorf("%d bytes in use, were %d", n, was)
	}
}

func TestBlocksThatAreSavedComeBack(t *testing.T) {
	g, p := growing(t)
	check(t, p.Plug(0, 1))
	check(t, p.Plug(3, 1))
	set := p.Blocks()
	again, q := growing(t)
	check(t, q.Plug(1, 1))
	check(t, q.SetBlocks(set))
	if q.Plugged() != 2*unit || q.Count(1, 2) != 0 {
		t.Errorf("%#x became %#x", set, q.Blocks())
	}
	check(t, again.WriteAt([]byte{1}, above+3*unit))
	for name, bad := range map[string][]uint64{"none": nil, "too many words": {0, 0}, "a block too many": {1 << 4}} {
		if err := q.SetBlocks(bad); !errors.Is(err, memory.ErrLayout) {
			t.Errorf("%s: %v", name, err)
		}
	}
	g.Dirty().Clear()
	g.MarkAllDirty()
	if n := g.Dirty().Count(); n != (4<<20+2*unit)/memory.PageSize {
		t.Errorf("%d pages are dirty", n)
	}
}

func TestBlocksOutsideTheRegion(t *testing.T) {
	_, p := growing(t)
	for _, c := range [][2]uint64{{0, 0}, {4, 1}, {0, 5}, {3, 2}, {1, 1<<64 - 1}, {1<<64 - 1, 1}} {
		if err := p.Plug(c[0], c[1]); !errors.Is(err, memory.ErrOutOfRange) {
			t.Errorf("Plug(%d, %d): %v", c[0], c[1], err)
		}
		if err := p.Unplug(c[0], c[1]); !errors.Is(err, memory.ErrOutOfRange) {
			t.Errorf("Unplug(%d, %d): %v", c[0], c[1], err)
		}
	}
	for name, o := range map[string]memory.Options{
		"no blocks":      {Size: 4 << 20, Pluggable: memory.Span{GPA: above, Size: unit}},
		"small blocks":   {Size: 4 << 20, Pluggable: memory.Span{GPA: above, Size: unit}, Block: 4096},
		"half a block":   {Size: 4 << 20, Pluggable: memory.Span{GPA: above, Size: 3 * unit}, Block: 2 * unit},
		"below the rest": {Size: 8 << 20, Pluggable: memory.Span{GPA: unit, Size: unit}, Block: unit},
		"huge pages":     {Size: 4 << 20, Pluggable: memory.Span{GPA: above, Size: unit}, Block: unit, HugePages: true},
	} {
		if _, err := memory.New(o); !errors.Is(err, memory.ErrLayout) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A device that is at work on memory while it is given and taken does no harm.
func TestDevicesAtWorkWhileBlocksGo(t *testing.T) {
	g, p := growing(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 2000 {
				if err := g.WriteAt([]byte{1, 2, 3, 4}, above); err != nil && !errors.Is(err, memory.ErrOutOfRange) {
					t.Error(err)
				}
				_ = g.StoreUint16(above+unit, 7)
			}
		})
	}
	for range 200 {
		check(t, p.Plug(0, 2))
		check(t, p.Unplug(0, 2))
	}
	wg.Wait()
}
