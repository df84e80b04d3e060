package blk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/blk"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

var suite = virtiotest.Suite{
	Kind: blk.Kind,
	MakeArgs: func(t testing.TB) virtio.Args {
		path, _ := imageFile(t, 64<<10)
		return virtio.Args{ID: "disk0", Values: map[string]string{"path": path}}
	},
	Request: func(t testing.TB, d *virtiotest.Driver) {
		t.Helper()
		u := d.Queue(0).Do(virtiotest.Out(header(typeGetID, 0)), virtiotest.In(20), virtiotest.In(1))
		if u.Written != 21 || string(bytes.TrimRight(u.In[:20], "\x00")) != "disk0" || u.In[20] != ok {
			t.Fatalf("%d bytes: %q", u.Written, u.In)
		}
	},
}

func TestSuite(t *testing.T) { suite.Run(t) }

func FuzzDevice(f *testing.F) { suite.Fuzz(f) }

func TestConfiguration(t *testing.T) {
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	c, le := k.d.Config(0, 60), binary.LittleEndian
	for name, v := range map[string][2]uint64{
		"capacity":             {le.Uint64(c), sectors},
		"size_max":             {uint64(le.Uint32(c[8:])), 0},
		"seg_max":              {uint64(le.Uint32(c[12:])), 126},
		"blk_size":             {uint64(le.Uint32(c[20:])), 512},
		"unused0":              {uint64(c[33]), 0},
		"discard alignment":    {uint64(le.Uint32(c[44:])), 1},
		"may_unmap and unused": {uint64(le.Uint32(c[56:])), 1},
	} {
		if v[0] != v[1] {
			t.Errorf("%s is %d, want %d", name, v[0], v[1])
		}
	}
	for _, off := range []int{36, 40, 48, 52} {
		if le.Uint32(c[off:]) == 0 {
			t.Errorf("limit at %d is 0", off)
		}
	}
}

func TestReadsAndWrites(t *testing.T) {
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	for _, c := range []struct{ sector, n int }{{0, 1}, {1, 7}, {sectors - 1, 1}, {5, 256}, {0, sectors}} {
		n := c.n * 512
		st, in, written := k.request(typeIn, uint64(c.sector), virtiotest.In(n/3), virtiotest.In(n-n/3))
		if st != ok || written != uint32(n+1) || !bytes.Equal(in, k.want[c.sector*512:][:n]) {
			t.Errorf("read %v: status %d, %d bytes", c, st, written)
		}
	}
	for i, c := range []struct{ sector, n int }{{0, 1}, {3, 9}, {sectors - 8, 8}, {100, 500}} {
		p := bytes.Repeat([]byte{byte(i) + 1, 0xee}, c.n*256)
		st, _, written := k.request(typeOut, uint64(c.sector), virtiotest.Out(p[:100]), virtiotest.Out(p[100:]))
		if st != ok || written != 1 {
			t.Errorf("write %v: status %d, %d bytes", c, st, written)
		}
		copy(k.want[c.sector*512:], p)
		k.check()
	}
	if m := k.metrics(); m.Writes.Load() != 4 || m.WriteBytes.Load() != 518*512 || m.Syncs.Load() != 0 {
		t.Errorf("%d writes of %d bytes, %d syncs", m.Writes.Load(), m.WriteBytes.Load(), m.Syncs.Load())
	}
	if st, _, _ := k.request(typeFlush, 0); st != ok || k.metrics().Syncs.Load() != 1 {
		t.Errorf("flush: status %d, %d syncs", st, k.metrics().Syncs.Load())
	}
}

// §2.7.4.1: a request may be cut into descriptors anywhere, indirect or not.
func TestAnyFraming(t *testing.T) {
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	q := k.d.Queue(0)
	h := header(typeOut, 8)
	p := bytes.Repeat([]byte("framing!"), 64)
	whole := append(slices.Clone(h), p...)
	for _, cuts := range [][]int{{}, {1, 2, 15}, {16}, {17, 500}, {8, 16, 100, 527}} {
		var bufs []virtiotest.Buf
		from := 0
		for _, to := range append(slices.Clone(cuts), len(whole)) {
			bufs = append(bufs, virtiotest.Out(whole[from:to]))
			from = to
		}
		q.AddIndirect(append(bufs, virtiotest.In(1))...)
		q.Kick()
		if u := q.Wait(); u.In[0] != ok {
			t.Errorf("write cut at %v: status %d", cuts, u.In[0])
		}
		copy(k.want[8*512:], p)
		k.check()
		// Back again, the status in the same descriptor as data.
		for _, sizes := range [][]int{{513}, {512, 1}, {1, 511, 1}, {100, 413}} {
			var in []virtiotest.Buf
			for _, n := range sizes {
				in = append(in, virtiotest.In(n))
			}
			u := q.Do(append([]virtiotest.Buf{virtiotest.Out(header(typeIn, 8))}, in...)...)
			if u.Written != 513 || u.In[512] != ok || !bytes.Equal(u.In[:512], p) {
				t.Errorf("read in %v: %d bytes, status %d", sizes, u.Written, u.In[512])
			}
		}
	}
}

// A chain may have more buffers than one preadv takes.
func TestVeryManyBuffers(t *testing.T) {
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	q := k.d.Queue(0)
	bufs := []virtiotest.Buf{virtiotest.Out(header(typeIn, 4))}
	for range 1022 {
		bufs = append(bufs, virtiotest.In(1))
	}
	bufs = append(bufs, virtiotest.In(512*4-1022+1))
	q.AddIndirect(bufs...)
	q.Kick()
	if u := q.Wait(); u.Written != 2049 || !bytes.Equal(u.In[:2048], k.want[2048:4096]) {
		t.Errorf("%d bytes", u.Written)
	}
}

func TestIdentity(t *testing.T) {
	for serial, want := range map[string]string{"": "", "vol-1": "vol-1", "exactly-twenty-bytes": "exactly-twenty-bytes"} {
		k := newDisk(t, blk.Options{Serial: serial}, virtiotest.Options{})
		for _, n := range []int{20, 32, 5} {
			st, in, _ := k.request(typeGetID, 0, virtiotest.In(n))
			expect := make([]byte, n)
			copy(expect, want)
			if st != ok || !bytes.Equal(in, expect) {
				t.Errorf("serial %q into %d bytes: status %d, %q", serial, n, st, in)
			}
		}
	}
}

// What a request asks for that cannot be is answered, changes nothing, and
// leaves the device running.
func TestRequestsThatCannotBe(t *testing.T) {
	data := func(n int) virtiotest.Buf { return virtiotest.Out(bytes.Repeat([]byte{0xaa}, n)) }
	many := bytes.Repeat(segment(0, 1, 0), 33)
	for _, c := range []struct {
		name   string
		kind   uint32
		sector uint64
		buf    []virtiotest.Buf
		want   byte
	}{
		{"read at the end", typeIn, sectors, []virtiotest.Buf{virtiotest.In(512)}, ioErr},
		{"read over the end", typeIn, sectors - 1, []virtiotest.Buf{virtiotest.In(1024)}, ioErr},
		{"read far away", typeIn, 1 << 40, []virtiotest.Buf{virtiotest.In(512)}, ioErr},
		{"read at 2^64", typeIn, ^uint64(0), []virtiotest.Buf{virtiotest.In(512)}, ioErr},
		{"read where bytes wrap to 0", typeIn, 1 << 55, []virtiotest.Buf{virtiotest.In(512)}, ioErr},
		{"read where bytes are negative", typeIn, 1 << 54, []virtiotest.Buf{virtiotest.In(512)}, ioErr},
		{"read of half a sector", typeIn, 0, []virtiotest.Buf{virtiotest.In(256)}, ioErr},
		{"read of a sector and a byte", typeIn, 0, []virtiotest.Buf{virtiotest.In(513)}, ioErr},
		{"write at the end", typeOut, sectors, []virtiotest.Buf{data(512)}, ioErr},
		{"write over the end", typeOut, sectors - 1, []virtiotest.Buf{data(1024)}, ioErr},
		{"write at 2^64", typeOut, ^uint64(0), []virtiotest.Buf{data(512)}, ioErr},
		{"write where bytes wrap to 0", typeOut, 1 << 55, []virtiotest.Buf{data(512)}, ioErr},
		{"write of a byte", typeOut, 0, []virtiotest.Buf{data(1)}, ioErr},
		{"write of 511 bytes", typeOut, 0, []virtiotest.Buf{data(511)}, ioErr},
		{"write of a writable buffer", typeOut, 0, []virtiotest.Buf{virtiotest.In(512)}, ok}, // no data: nothing to do
		{"read into a readable buffer", typeIn, 0, []virtiotest.Buf{data(512)}, ok},
		{"unknown type", 2, 0, nil, unsupported},
		{"unknown type, large", 0xffffffff, 0, []virtiotest.Buf{data(512)}, unsupported},
		{"secure erase", 14, 0, []virtiotest.Buf{virtiotest.Out(segment(0, 1, 0))}, unsupported},
		{"lifetime", 10, 0, []virtiotest.Buf{virtiotest.In(6)}, unsupported},
		{"zone report", 16, 0, []virtiotest.Buf{virtiotest.In(512)}, unsupported},
		{"discard of nothing", typeDiscard, 0, nil, ioErr},
		{"discard of half a segment", typeDiscard, 0, []virtiotest.Buf{data(8)}, ioErr},
		{"discard of 33 segments", typeDiscard, 0, []virtiotest.Buf{virtiotest.Out(many)}, ioErr},
		{"discard past the end", typeDiscard, 0, []virtiotest.Buf{virtiotest.Out(segment(sectors-1, 2, 0))}, ioErr},
		{"discard at 2^64", typeDiscard, 0, []virtiotest.Buf{virtiotest.Out(segment(^uint64(0), 1, 0))}, ioErr},
		{"discard of 2^32-1", typeDiscard, 0, []virtiotest.Buf{virtiotest.Out(segment(0, 0xffffffff, 0))}, ioErr},
		{"discard with unmap", typeDiscard, 0, []virtiotest.Buf{virtiotest.Out(segment(0, 1, 1))}, unsupported},
		{"discard with a reserved flag", typeDiscard, 0, []virtiotest.Buf{virtiotest.Out(segment(0, 1, 1<<31))}, unsupported},
		{"good discard, then a bad one", typeDiscard, 0, []virtiotest.Buf{virtiotest.Out(append(segment(0, 1, 0), segment(sectors, 1, 0)...))}, ioErr},
		{"zeroes past the end", typeZero, 0, []virtiotest.Buf{virtiotest.Out(segment(sectors, 1, 1))}, ioErr},
		{"zeroes with a reserved flag", typeZero, 0, []virtiotest.Buf{virtiotest.Out(segment(0, 1, 2))}, unsupported},
		{"zeroes of two segments", typeZero, 0, []virtiotest.Buf{virtiotest.Out(many[:32])}, ioErr},
		{"zeroes beyond the limit", typeZero, 0, []virtiotest.Buf{virtiotest.Out(segment(0, 64<<20/512+1, 0))}, ioErr},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newDisk(t, blk.Options{}, virtiotest.Options{})
			st, _, _ := k.request(c.kind, c.sector, c.buf...)
			if st != c.want {
				t.Errorf("status %d, want %d", st, c.want)
			}
			k.check()
			if m := k.metrics(); m.Failures.Load() != 0 || (m.GuestMistakes.Load() == 1) != (c.want == ioErr) || (m.Unsupported.Load() == 1) != (c.want == unsupported) {
				t.Errorf("counted %d failures, %d mistakes, %d unsupported", m.Failures.Load(), m.GuestMistakes.Load(), m.Unsupported.Load())
			}
			if st, in, _ := k.request(typeIn, 0, virtiotest.In(512)); st != ok || !bytes.Equal(in, k.want[:512]) {
				t.Errorf("the next read: status %d", st)
			}
		})
	}
}

// Nothing to move is no mistake, even right at the end of the disk.
func TestEmptyRequests(t *testing.T) {
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	for _, kind := range []uint32{typeIn, typeOut} {
		for sector, want := range map[uint64]byte{0: ok, sectors: ok, sectors + 1: ioErr} {
			if st, _, written := k.request(kind, sector); st != want || written != 1 {
				t.Errorf("type %d at %d: status %d, %d bytes", kind, sector, st, written)
			}
		}
	}
}

// Chains that cannot hold a request stop the device (§2.1.2).
func TestChainsThatAreNoRequests(t *testing.T) {
	for name, bufs := range map[string][]virtiotest.Buf{
		"short header":    {virtiotest.Out(make([]byte, 15)), virtiotest.In(1)},
		"no header":       {virtiotest.In(512)},
		"no status":       {virtiotest.Out(header(typeOut, 0)), virtiotest.Out(make([]byte, 512))},
		"only a header":   {virtiotest.Out(header(typeFlush, 0))},
		"one byte of all": {virtiotest.Out([]byte{1})},
	} {
		t.Run(name, func(t *testing.T) {
			k := newDisk(t, blk.Options{}, virtiotest.Options{})
			k.d.Queue(0).Add(bufs...)
			k.d.Queue(0).Kick()
			k.d.WaitNeedsReset()
			k.check()
			k.d.Renew()
			if st, _, _ := k.request(typeIn, 0, virtiotest.In(512)); st != ok {
				t.Errorf("after a reset: status %d", st)
			}
		})
	}
}

func TestReadOnlyDisk(t *testing.T) {
	k := newDisk(t, blk.Options{ReadOnly: true}, virtiotest.Options{})
	if !k.d.Features.Has(featureReadOnly) || k.d.Features&(1<<13|1<<14) != 0 {
		t.Errorf("features %#x", uint64(k.d.Features))
	}
	for kind, buf := range map[uint32][]byte{
		typeOut: make([]byte, 512), typeDiscard: segment(0, 8, 0), typeZero: segment(0, 8, 1),
	} {
		if st, _, _ := k.request(kind, 0, virtiotest.Out(buf)); st != ioErr {
			t.Errorf("type %d: status %d", kind, st)
		}
	}
	k.check()
	if m := k.metrics(); m.GuestMistakes.Load() != 3 || m.Failures.Load() != 0 {
		t.Errorf("%d mistakes, %d failures: the host was asked", m.GuestMistakes.Load(), m.Failures.Load())
	}
	if st, in, _ := k.request(typeIn, 7, virtiotest.In(512)); st != ok || !bytes.Equal(in, k.want[7*512:8*512]) {
		t.Errorf("read: status %d", st)
	}
	if st, _, _ := k.request(typeFlush, 0); st != ok {
		t.Errorf("flush: status %d", st)
	}
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

func TestDiscardAndWriteZeroes(t *testing.T) {
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	zero := func(sector, n int) { clear(k.want[sector*512:][:n*512]) }
	before := blocks(t, k.path)

	// Discard: page-aligned ranges become holes wherever files can have any.
	if st, _, _ := k.request(typeDiscard, 0, virtiotest.Out(append(segment(8, 64, 0), segment(512, 512, 0)...))); st != ok {
		t.Fatalf("discard: status %d", st)
	}
	zero(8, 64)
	zero(512, 512)
	k.check()
	if after := blocks(t, k.path); after >= before {
		t.Errorf("%d blocks before a discard, %d after", before, after)
	}

	for _, c := range []struct {
		sector, n int
		flags     uint32
	}{{1, 1, 0}, {100, 333, 0}, {100, 333, 1}, {sectors - 3, 3, 1}, {1024, 1024, 0}, {0, 0, 0}} {
		if st, _, _ := k.request(typeZero, 0, virtiotest.Out(segment(uint64(c.sector), uint32(c.n), c.flags))); st != ok {
			t.Errorf("zeroes %+v: status %d", c, st)
		}
		zero(c.sector, c.n)
		k.check()
	}
	// Only with unmap may the space go.
	for flags, less := range []bool{false, true} {
		if st, _, _ := k.request(typeOut, 64, virtiotest.Out(bytes.Repeat([]byte{7}, 64<<10))); st != ok {
			t.Fatalf("write: status %d", st)
		}
		before := blocks(t, k.path)
		if st, _, _ := k.request(typeZero, 0, virtiotest.Out(segment(64, 128, uint32(flags)))); st != ok {
			t.Fatalf("zeroes: status %d", st)
		}
		if after := blocks(t, k.path); (after < before) != less {
			t.Errorf("flags %d: %d blocks before, %d after", flags, before, after)
		}
		zero(64, 128)
		k.check()
	}
	if m := k.metrics(); m.Discards.Load() != 1 || m.WriteZeroes.Load() != 8 {
		t.Errorf("%d discards, %d write-zeroes", m.Discards.Load(), m.WriteZeroes.Load())
	}
}

// A driver without FLUSH gets durable writes (§5.2.6.2), one with it gets them
// when it asks.
func TestDurabilityWithoutFlush(t *testing.T) {
	k := newDisk(t, blk.Options{}, virtiotest.Options{Without: featureFlush})
	want := uint64(0)
	for _, c := range []struct {
		kind  uint32
		buf   virtiotest.Buf
		syncs uint64
		want  byte
	}{
		{typeIn, virtiotest.In(512), 0, ok},
		{typeOut, virtiotest.Out(make([]byte, 512)), 1, ok},
		{typeDiscard, virtiotest.Out(segment(0, 8, 0)), 1, ok},
		{typeZero, virtiotest.Out(segment(0, 8, 0)), 1, ok},
		{typeOut, virtiotest.Out(make([]byte, 5)), 0, ioErr},
	} {
		st, _, _ := k.request(c.kind, 0, c.buf)
		want += c.syncs
		if got := k.metrics().Syncs.Load(); st != c.want || got != want {
			t.Errorf("type %d: status %d, %d syncs, want %d", c.kind, st, got, want)
		}
	}
	// The next driver may be another one.
	k2 := newDisk(t, blk.Options{}, virtiotest.Options{})
	k2.request(typeOut, 0, virtiotest.Out(make([]byte, 512)))
	if n := k2.metrics().Syncs.Load(); n != 0 {
		t.Errorf("%d syncs with FLUSH accepted", n)
	}
}

// The driver hears of what is done before a flush begins and right after it,
// not only at the end of the batch.
func TestFlushDoesNotHoldTheBatchUp(t *testing.T) {
	k := newDisk(t, blk.Options{Engine: blk.EnginePlain}, virtiotest.Options{Without: virtio.FeatureEventIdx})
	q := k.d.Queue(0)
	k.d.Stop() // so that all three are one batch
	for _, kind := range []uint32{typeGetID, typeFlush, typeGetID} {
		q.Add(virtiotest.Out(header(kind, 0)), virtiotest.In(20), virtiotest.In(1))
	}
	before := k.d.Link.Interrupts(0)
	k.d.Resume()
	for range 3 {
		if u := q.Wait(); u.In[20] != ok {
			t.Errorf("status %d", u.In[20])
		}
	}
	k.d.Eventually("three interrupts", func() bool { return k.d.Link.Interrupts(0) == before+3 })
}

// What a read wrote into guest memory is marked for migration, nothing else.
func TestReadMarksDirty(t *testing.T) {
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	in, status := k.d.Alloc(3*4096, 4096), k.d.Alloc(4096, 4096)
	other := k.d.Alloc(4096, 4096)
	k.d.Mem.Dirty().Clear()
	k.d.Queue(0).Do(virtiotest.Out(header(typeIn, 0)), virtiotest.At(in, 3*4096, true), virtiotest.At(status, 1, true))
	dirty := k.d.Mem.Dirty()
	for page := uint64(in) / 4096; page < uint64(in)/4096+4; page++ {
		if !dirty.Has(page) {
			t.Errorf("page %d is not dirty", page)
		}
	}
	if dirty.Has(uint64(other) / 4096) {
		t.Error("a page that nobody wrote is dirty")
	}
}

func TestRestoreNeedsTheSameDisk(t *testing.T) {
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	sec, err := state.Save("blk", k.dev)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		size int
		ro   bool
		ok   bool
	}{"same": {sectors * 512, false, true}, "smaller": {512, false, false}, "larger": {sectors*512 + 512, false, false}, "read-only": {sectors * 512, true, false}} {
		path, _ := imageFile(t, c.size)
		dev, err := blk.New(blk.Options{Path: path, ReadOnly: c.ro})
		if err != nil {
			t.Fatal(err)
		}
		if err := state.Load(sec, dev); (err == nil) != c.ok || err != nil && !errors.Is(err, virtio.ErrState) {
			t.Errorf("%s: %v", name, err)
		}
		_ = dev.Close()
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	path, _ := imageFile(t, 512)
	for name, o := range map[string]blk.Options{
		"no path": {}, "long serial": {Path: path, Serial: strings.Repeat("x", 21)},
	} {
		if _, err := blk.New(o); !errors.Is(err, virtio.ErrArgs) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := blk.Kind.New(virtio.Args{Values: map[string]string{"path": path, "ro": "maybe"}}); !errors.Is(err, virtio.ErrArgs) {
		t.Errorf("ro=maybe: %v", err)
	}
	// An id that is too long for a serial is no reason to refuse the disk.
	dev, err := blk.Kind.New(virtio.Args{ID: strings.Repeat("i", 64), Values: map[string]string{"path": path}})
	if err != nil {
		t.Fatal(err)
	}
	_ = dev.(*blk.Device).Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
