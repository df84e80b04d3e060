package memory_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
)

func newGuest(t testing.TB, o memory.Options) *memory.Guest {
	t.Helper()
	g, err := memory.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func TestRAMContinuesAboveTheHole(t *testing.T) {
	g := newGuest(t, memory.Options{Size: 5 << 30})
	r := g.Regions()
	if len(r) != 2 || r[0].GPA != 0 || r[0].Size != 3<<30 || r[1].GPA != memory.HoleEnd || r[1].Size != 2<<30 || r[1].Offset != 3<<30 {
		t.Fatalf("regions %+v", r)
	}
	for _, a := range []memory.GPA{0, memory.HoleStart - 1, memory.HoleEnd, memory.HoleEnd + 2<<30 - 1} {
		if err := g.WriteAt([]byte{0x5a}, a); err != nil {
			t.Errorf("WriteAt(%v) = %v", a, err)
		}
	}
	for _, a := range []memory.GPA{memory.HoleStart, memory.HoleEnd - 1, memory.HoleEnd + 2<<30, ^memory.GPA(0)} {
		if err := g.WriteAt([]byte{1}, a); !errors.Is(err, memory.ErrOutOfRange) {
			t.Errorf("WriteAt(%v) = %v, want ErrOutOfRange", a, err)
		}
	}
	if err := g.WriteAt(make([]byte, 2), memory.HoleStart-1); !errors.Is(err, memory.ErrOutOfRange) {
		t.Errorf("write across the edge of the hole = %v", err)
	}
	if n := g.Dirty().Count(); n != 4 {
		t.Errorf("%d dirty pages, want 4", n)
	}
	if !g.Dirty().Has(3 << 30 / memory.PageSize) {
		t.Error("first page above the hole is not at its file offset")
	}
}

func TestImpossibleLayoutsAreRefused(t *testing.T) {
	for name, o := range map[string]memory.Options{
		"nothing":   {},
		"both":      {Size: 4096, Regions: []memory.Span{{GPA: 0, Size: 4096}}},
		"odd size":  {Size: 4097},
		"too large": {Size: 1 << 60},
		"overlap":   {Regions: []memory.Span{{GPA: 0x1000, Size: 0x2000}, {GPA: 0x2000, Size: 0x1000}}},
		"wraps":     {Regions: []memory.Span{{GPA: ^memory.GPA(0xfff), Size: 0x2000}}},
		"empty":     {Regions: []memory.Span{{GPA: 0, Size: 0}}},
		"odd base":  {Regions: []memory.Span{{GPA: 12, Size: 4096}}},
	} {
		t.Run(name, func(t *testing.T) {
			if g, err := memory.New(o); !errors.Is(err, memory.ErrLayout) {
				t.Errorf("New = %v, %v; want ErrLayout", g, err)
			}
		})
	}
}

func TestSharedWords(t *testing.T) {
	g := newGuest(t, memory.Options{Size: 1 << 20})
	if err := g.WriteAt([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 0x1000); err != nil {
		t.Fatal(err)
	}
	if v, err := g.LoadUint16(0x1002); err != nil || v != 0x0403 {
		t.Errorf("LoadUint16 = %#x, %v", v, err)
	}
	if v, err := g.LoadUint32(0x1004); err != nil || v != 0x08070605 {
		t.Errorf("LoadUint32 = %#x, %v", v, err)
	}
	if v, err := g.LoadUint64(0x1000); err != nil || v != 0x0807060504030201 {
		t.Errorf("LoadUint64 = %#x, %v", v, err)
	}
	if err := g.StoreUint16(0x1002, 0xaabb); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 8)
	if err := g.ReadAt(got, 0x1000); err != nil || !bytes.Equal(got, []byte{1, 2, 0xbb, 0xaa, 5, 6, 7, 8}) {
		t.Errorf("after StoreUint16: %x, %v", got, err)
	}
	if _, err := g.LoadUint16(0x1001); !errors.Is(err, memory.ErrMisaligned) {
		t.Errorf("odd address = %v", err)
	}
	if err := g.StoreUint16(1<<20, 1); !errors.Is(err, memory.ErrOutOfRange) {
		t.Errorf("past the end = %v", err)
	}
}

func TestStoreUint16KeepsItsNeighbour(t *testing.T) {
	g := newGuest(t, memory.Options{Size: 4096})
	const rounds = 20000
	var wg sync.WaitGroup
	for _, a := range []memory.GPA{0, 2} { // both halves of one word
		wg.Go(func() {
			for i := range uint16(rounds) {
				if err := g.StoreUint16(a, i); err != nil {
					t.Error(err)
					return
				}
				if v, _ := g.LoadUint16(a); v != i {
					t.Errorf("%v: stored %d, read %d", a, i, v)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestHarvestLosesNothing(t *testing.T) {
	const pages = 1000
	b, into := memory.NewBitmap(pages), memory.NewBitmap(pages)
	var wg sync.WaitGroup
	for k := range uint64(2) {
		wg.Go(func() {
			for p := k; p < pages; p += 2 {
				b.Set(p, 1)
			}
		})
	}
	var n uint64
	for range 200 {
		n += b.Harvest(into)
	}
	wg.Wait()
	n += b.Harvest(into)
	if n != pages || into.Count() != pages || b.Count() != 0 {
		t.Errorf("harvested %d (set %d), left %d; want %d, %d, 0", n, into.Count(), b.Count(), pages, pages)
	}
}

func TestBitmapAgreesWithASet(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	b := memory.NewBitmap(333)
	want := map[uint64]bool{}
	for range 60 {
		first, n := rnd.Uint64N(400), rnd.Uint64N(9)
		b.Set(first, n)
		for p := first; p < first+n && p < 333; p++ {
			want[p] = true
		}
	}
	b.OrWords(320, []uint64{^uint64(0), ^uint64(0)}) // KVM rounds its log up to 64
	for p := uint64(320); p < 333; p++ {
		want[p] = true
	}
	got := map[uint64]bool{}
	for first, n := range b.All() {
		if got[first-1] {
			t.Errorf("run at %d is not maximal", first)
		}
		for p := first; p < first+n; p++ {
			got[p] = true
		}
	}
	if b.Count() != uint64(len(want)) || len(got) != len(want) {
		t.Fatalf("count %d, runs hold %d, want %d", b.Count(), len(got), len(want))
	}
	for p := range want {
		if !b.Has(p) || !got[p] {
			t.Errorf("page %d is missing", p)
		}
	}
	b.Set(^uint64(0), 5)
	b.Set(300, ^uint64(0))
	if b.Count() > 333 {
		t.Error("set pages beyond the capacity")
	}
}

func TestDiscardGivesPagesBackAsZeroes(t *testing.T) {
	g := newGuest(t, memory.Options{Size: 1 << 20})
	if err := g.WriteAt(bytes.Repeat([]byte{7}, 4*4096), 0); err != nil {
		t.Fatal(err)
	}
	before := blocks(t, g)
	g.Dirty().Clear()
	if err := g.Discard(100, 3*4096); err != nil { // whole pages inside: 1 and 2
		t.Fatal(err)
	}
	for p, want := range []byte{7, 0, 0, 7} {
		b, err := g.Slice(memory.GPA(p*4096), 4096)
		if err != nil || !bytes.Equal(b, bytes.Repeat([]byte{want}, 4096)) {
			t.Errorf("page %d is not all %d (%v)", p, want, err)
		}
		if g.Dirty().Has(uint64(p)) != (want == 0) {
			t.Errorf("page %d dirty: %v", p, g.Dirty().Has(uint64(p)))
		}
	}
	if after := blocks(t, g); after > before {
		t.Errorf("file grew from %d to %d blocks", before, after)
	}
	if err := g.Discard(1<<20-4096, 8192); !errors.Is(err, memory.ErrOutOfRange) {
		t.Errorf("past the end = %v", err)
	}
}

func TestReleaseMakesHolesAndNoPages(t *testing.T) {
	g := newGuest(t, memory.Options{Size: 1 << 20})
	if err := g.WriteAt(bytes.Repeat([]byte{7}, 4*4096), 0); err != nil {
		t.Fatal(err)
	}
	before := blocks(t, g)
	var v memory.Vec
	for _, s := range []memory.Span{{GPA: 100, Size: 2 * 4096}, {GPA: 3 * 4096, Size: 4096}} { // pages 1 and 3
		b, err := g.Slice(s.GPA, s.Size)
		if err != nil {
			t.Fatal(err)
		}
		v.Append(b)
	}
	if err := g.ReleaseVec(v); err != nil || !g.ReleasesZeroes() {
		t.Fatal(err, g.ReleasesZeroes())
	}
	if err := g.Release(512<<10, 512<<10); err != nil {
		t.Fatal(err)
	}
	if after := blocks(t, g); after != before-16 {
		t.Errorf("%d blocks of %d are left, want 16 less", after, before)
	}
	for p, want := range []byte{7, 0, 7, 0} {
		if b, err := g.Slice(memory.GPA(p*4096+200), 1); err != nil || b[0] != want {
			t.Errorf("page %d holds %v, want %d (%v)", p, b, want, err)
		}
	}
	var foreign memory.Vec
	foreign.Append(make([]byte, 3*4096))
	if err := g.ReleaseVec(foreign); !errors.Is(err, memory.ErrOutOfRange) {
		t.Errorf("memory that is not the guest's: %v", err)
	}
	if err := g.Release(1<<20-4096, 8192); !errors.Is(err, memory.ErrOutOfRange) {
		t.Errorf("past the end = %v", err)
	}
}

func blocks(t *testing.T, g *memory.Guest) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(g.FD(), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

func TestRAMIsLazyAndCannotBeShrunk(t *testing.T) {
	g := newGuest(t, memory.Options{Size: 1 << 30, THP: true})
	if n := blocks(t, g); n != 0 {
		t.Errorf("fresh RAM holds %d blocks", n)
	}
	if err := unix.Ftruncate(g.FD(), 4096); err == nil {
		t.Error("the file could be shrunk under the mapping")
	}
}

func TestCloseTwice(t *testing.T) {
	g, err := memory.New(memory.Options{Size: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

func FuzzGuestBounds(f *testing.F) {
	f.Add(uint64(0), uint64(1))
	f.Add(uint64(memory.HoleStart-1), uint64(2))
	f.Add(^uint64(0), ^uint64(0))
	f.Add(uint64(memory.HoleEnd)+8191, uint64(1))
	g := newGuest(f, memory.Options{Size: 3<<30 + 8192})
	f.Fuzz(func(t *testing.T, a, n uint64) {
		b, err := g.Slice(memory.GPA(a), n)
		inside := false
		for _, r := range g.Regions() {
			base := uint64(r.GPA)
			inside = inside || a >= base && a < base+r.Size && n <= base+r.Size-a
		}
		if inside != (err == nil) || err == nil && uint64(len(b)) != n {
			t.Fatalf("Slice(%#x, %#x) = %d bytes, %v; inside RAM: %v", a, n, len(b), err, inside)
		}
		g.MarkDirty(memory.GPA(a), min(n, 1<<20))
		_, _ = g.LoadUint64(memory.GPA(a))
	})
}

func TestHVAIsWhereTheBytesAre(t *testing.T) {
	g := newGuest(t, memory.Options{Size: 1 << 20})
	r := g.Regions()[0]
	if at, err := g.HVA(r.GPA+0x123, 16); err != nil || at != r.HVA()+0x123 {
		t.Errorf("HVA = %#x, %v; the region is at %#x", at, err, r.HVA())
	}
	if _, err := g.HVA(r.GPA+memory.GPA(r.Size)-8, 16); !errors.Is(err, memory.ErrOutOfRange) {
		t.Errorf("HVA past the end: %v", err)
	}
}

func TestHugePagesKeepWhatIsThere(t *testing.T) {
	g := newGuest(t, memory.Options{Size: 8 << 20})
	want := []byte("here before")
	if err := g.WriteAt(want, 2<<20+12345); err != nil {
		t.Fatal(err)
	}
	err := g.MakeHuge(2 << 20)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOMEM) {
		t.Skipf("this host gives no huge page: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	all := g.Regions()[0].Bytes[2<<20 : 4<<20]
	if !bytes.Equal(all[12345:12345+len(want)], want) {
		t.Error("what was written before is gone")
	}
	clear(all[12345 : 12345+len(want)])
	if !bytes.Equal(all, make([]byte, 2<<20)) {
		t.Error("what was not there does not read as zeroes")
	}
	var st unix.Stat_t
	if err := unix.Fstat(g.FD(), &st); err != nil || st.Blocks*512 != 2<<20 {
		t.Errorf("the RAM has %d bytes (%v), want one huge page", st.Blocks*512, err)
	}
	for _, a := range []memory.GPA{4096, 8 << 20, 7 << 20} {
		if g.MakeHuge(a) == nil {
			t.Errorf("MakeHuge(%v) did not fail", a)
		}
	}
}
