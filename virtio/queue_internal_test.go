package virtio

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/memory"
)

type noIRQ struct{}

func (noIRQ) Queue(int) error { return nil }
func (noIRQ) Config() error   { return nil }

const (
	testSize  = 8
	testDesc  = 0x1000
	testAvail = 0x2000
	testUsed  = 0x3000
	testRAM   = 1 << 20
)

// bareQueue is a queue without a core, ready to Pop.
func bareQueue(t testing.TB, f Features) *Queue {
	t.Helper()
	mem, err := memory.New(memory.Options{Size: testRAM})
	if err != nil {
		t.Fatal(err)
	}
	ev, err := eventfd.New("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ev.Close()
		_ = mem.Close()
	})
	q := &Queue{max: testSize, kick: ev, irq: noIRQ{}, metrics: &Metrics{}}
	q.state = QueueState{Size: testSize, Enabled: true, Desc: testDesc, Avail: testAvail, Used: testUsed}
	if err := q.prepare(mem, f); err != nil {
		t.Fatal(err)
	}
	return q
}

func (q *Queue) put(t testing.TB, table memory.GPA, i uint16, d descriptor) {
	t.Helper()
	var b [16]byte
	binary.LittleEndian.PutUint64(b[0:], uint64(d.addr))
	binary.LittleEndian.PutUint32(b[8:], d.len)
	binary.LittleEndian.PutUint16(b[12:], d.flags)
	binary.LittleEndian.PutUint16(b[14:], d.next)
	if err := q.mem.WriteAt(b[:], table+16*memory.GPA(i)); err != nil {
		t.Fatal(err)
	}
}

// offer publishes head as chain number n (from 0).
func (q *Queue) offer(t testing.TB, n, head uint16) {
	t.Helper()
	if err := q.mem.StoreUint16(testAvail+availRing+2*memory.GPA(n%testSize), head); err != nil {
		t.Fatal(err)
	}
	if err := q.mem.StoreUint16(testAvail+availIdx, n+1); err != nil {
		t.Fatal(err)
	}
}

func TestPopAndPushDoNotAllocate(t *testing.T) {
	q := bareQueue(t, FeatureEventIdx|FeatureIndirectDesc)
	q.put(t, testDesc, 0, descriptor{0x10000, 16, descNext, 1})
	q.put(t, testDesc, 1, descriptor{0x11000, 4096, descNext | descWrite, 2})
	q.put(t, testDesc, 2, descriptor{0x12000, 1, descWrite, 0})
	n := uint16(0)
	allocs := testing.AllocsPerRun(200, func() {
		q.offer(t, n, 0)
		n++
		c, ok, err := q.Pop()
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		var hdr [16]byte
		c.Readable.CopyOut(hdr[:])
		if got := len(c.Writable.DropLast(1).Buffers()); got != 1 {
			t.Fatal(got)
		}
		if err := q.Push(c, 4097); err != nil {
			t.Fatal(err)
		}
		if err := q.Flush(); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per request", allocs)
	}
}

func BenchmarkPopPush(b *testing.B) {
	q := bareQueue(b, FeatureEventIdx)
	q.put(b, testDesc, 0, descriptor{0x10000, 16, descNext, 1})
	q.put(b, testDesc, 1, descriptor{0x11000, 4096, descNext | descWrite, 2})
	q.put(b, testDesc, 2, descriptor{0x12000, 1, descWrite, 0})
	b.ReportAllocs()
	for n := uint16(0); b.Loop(); n++ {
		q.offer(b, n, 0)
		c, _, err := q.Pop()
		if err != nil {
			b.Fatal(err)
		}
		if err := q.Push(c, 4097); err != nil {
			b.Fatal(err)
		}
		if err := q.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestLongChainsDoNotKeepTheirBacking(t *testing.T) {
	q := bareQueue(t, FeatureIndirectDesc)
	const long = 500
	for i := range uint16(long) {
		q.put(t, 0x20000, i, descriptor{0x10000, 8, descNext, i + 1})
	}
	q.put(t, 0x20000, long-1, descriptor{0x10000, 8, 0, 0})
	for h := range uint16(testSize) {
		q.put(t, testDesc, h, descriptor{0x20000, 16 * long, descIndirect, 0})
		q.offer(t, h, h)
	}
	var chains []Chain
	for {
		c, ok, err := q.Pop()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		chains = append(chains, c)
	}
	for _, c := range chains {
		if err := q.Push(c, 0); err != nil {
			t.Fatal(err)
		}
	}
	if len(chains) != testSize || len(q.free) != 1 {
		t.Errorf("%d chains left %d long backings", len(chains), len(q.free))
	}
}

func TestChainLimits(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries int // in the indirect table
		good    bool
	}{
		{"at the limit", maxIndirect, true},
		{"one more", maxIndirect + 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := bareQueue(t, FeatureIndirectDesc)
			for i := range uint16(c.entries) {
				q.put(t, 0x20000, i, descriptor{0x10000, 8, descNext, i + 1})
			}
			q.put(t, 0x20000, uint16(c.entries-1), descriptor{0x10000, 8, 0, 0})
			q.put(t, testDesc, 0, descriptor{0x20000, uint32(16 * c.entries), descIndirect, 0})
			q.offer(t, 0, 0)
			ch, ok, err := q.Pop()
			if c.good && (!ok || err != nil || ch.Readable.Len() != 8*c.entries) {
				t.Errorf("Pop = %d bytes, %v, %v", ch.Readable.Len(), ok, err)
			}
			if !c.good && !errors.Is(err, ErrGuest) {
				t.Errorf("Pop = %v, want ErrGuest", err)
			}
		})
	}
	t.Run("as long as the ring", func(t *testing.T) {
		q := bareQueue(t, 0)
		for i := range uint16(testSize) {
			q.put(t, testDesc, i, descriptor{0x10000, 8, descNext, i + 1})
		}
		q.put(t, testDesc, testSize-1, descriptor{0x10000, 8, 0, 0})
		q.offer(t, 0, 0)
		if c, ok, err := q.Pop(); !ok || err != nil || c.Readable.Len() != 8*testSize {
			t.Errorf("Pop = %v, %v", ok, err)
		}
	})
}

// FuzzChain pops from rings of any content and compares with a plain reading of
// the specification.
func FuzzChain(f *testing.F) {
	entry := func(addr uint32, n uint16, flags, next byte) []byte {
		b := binary.LittleEndian.AppendUint32(nil, addr)
		b = binary.LittleEndian.AppendUint16(b, n)
		return append(b, flags, next)
	}
	f.Add(byte(0), true, append(entry(0x10000, 16, 1, 1), entry(0x11000, 512, 2, 0)...))
	f.Add(byte(0), true, append(entry(0x8000, 32, 4, 0), entry(0x11000, 512, 2, 0)...))
	f.Add(byte(0), false, append(entry(0x10000, 16, 1, 1), entry(0x11000, 512, 1, 0)...))
	f.Add(byte(9), true, entry(0xfffff, 16, 2, 0))
	f.Add(byte(0), true, append(entry(0x10000, 16, 3, 1), entry(0x11000, 512, 0, 0)...)) // readable after writable
	var table []byte
	for range testSize - 1 {
		table = append(table, entry(0x10000, 16, 2, 0)...)
	}
	for _, inner := range [][]byte{
		entry(0x10000, 16, 2, 0), // sound
		entry(0x8010, 16, 4, 0),  // indirect in indirect
		append(entry(0x10000, 16, 3, 1), entry(0x10000, 16, 3, 0)...), // loop
	} {
		for _, n := range []uint16{16, 32, 24} {
			f.Add(byte(0), true, append(append(entry(0x8000, n, 4, 0), table...), append(inner, entry(0x10000, 16, 2, 0)...)...))
		}
	}
	f.Fuzz(func(t *testing.T, head byte, indirect bool, script []byte) {
		var feat Features
		if indirect {
			feat = FeatureIndirectDesc
		}
		q := bareQueue(t, feat)
		for i := uint16(0); len(script) >= 8; i++ {
			d := descriptor{
				addr: memory.GPA(binary.LittleEndian.Uint32(script)), len: uint32(binary.LittleEndian.Uint16(script[4:])),
				flags: uint16(script[6]), next: uint16(script[7]),
			}
			if i < testSize {
				q.put(t, testDesc, i, d)
			} else if i < 64 {
				q.put(t, 0x8000, i-testSize, d)
			}
			script = script[8:]
		}
		readable, writable, good := q.model(uint16(head), indirect)
		q.offer(t, 0, uint16(head))
		c, ok, err := q.Pop()
		if good != (err == nil) || ok != good {
			t.Fatalf("Pop = %v, %v; the specification says %v", ok, err, good)
		}
		if err != nil {
			if !errors.Is(err, ErrGuest) {
				t.Fatalf("%v does not wrap ErrGuest", err)
			}
			return
		}
		if c.Readable.Len() != readable || c.Writable.Len() != writable {
			t.Fatalf("%d and %d bytes, want %d and %d", c.Readable.Len(), c.Writable.Len(), readable, writable)
		}
		if err := q.Push(c, uint32(writable)); err != nil {
			t.Fatal(err)
		}
	})
}

// model reads a chain step by step, without caring for speed.
func (q *Queue) model(head uint16, indirect bool) (readable, writable int, good bool) {
	type table struct {
		at memory.GPA
		n  uint64
	}
	in, i := table{testDesc, testSize}, uint64(head)
	inside, hops := false, uint64(0)
	for {
		if i >= in.n || hops >= min(in.n, maxIndirect) {
			return 0, 0, false
		}
		hops++
		b := make([]byte, 16)
		if q.mem.ReadAt(b, in.at+memory.GPA(16*i)) != nil {
			return 0, 0, false
		}
		addr, n := memory.GPA(binary.LittleEndian.Uint64(b)), uint64(binary.LittleEndian.Uint32(b[8:]))
		flags, next := binary.LittleEndian.Uint16(b[12:]), binary.LittleEndian.Uint16(b[14:])
		if n == 0 || uint64(addr) >= testRAM || uint64(addr)+n > testRAM {
			return 0, 0, false
		}
		if flags&descIndirect != 0 {
			if !indirect || inside || flags&descNext != 0 || n%16 != 0 {
				return 0, 0, false
			}
			in, i, inside, hops = table{addr, n / 16}, 0, true, 0
			continue
		}
		if flags&descWrite != 0 {
			writable += int(n)
		} else if writable > 0 {
			return 0, 0, false
		} else {
			readable += int(n)
		}
		if flags&descNext == 0 {
			return readable, writable, true
		}
		i = uint64(next)
	}
}

// A driver's buffers may lie in memory that was lent, as far as devices may write
// there; its indirect tables may not.
func TestAChainReachesLentMemory(t *testing.T) {
	const at = 1 << 30
	for name, c := range map[string]struct {
		readOnly bool
		d        descriptor
		ok       bool
	}{
		"read":        {true, descriptor{at + 8, 4, 0, 0}, true},
		"write":       {false, descriptor{at + 8, 4, descWrite, 0}, true},
		"not allowed": {true, descriptor{at + 8, 4, descWrite, 0}, false},
		"table":       {false, descriptor{at, 32, descIndirect, 0}, false},
		"too long":    {false, descriptor{at + 8, testSize * memory.PageSize, 0, 0}, false},
	} {
		t.Run(name, func(t *testing.T) {
			q := bareQueue(t, FeatureIndirectDesc)
			mem := make([]byte, memory.PageSize)
			mem[8] = 7
			q.mem.Lend(at, mem, c.readOnly)
			q.put(t, testDesc, 0, c.d)
			q.offer(t, 0, 0)
			got, ok, err := q.Pop()
			if ok != c.ok || !ok && !errors.Is(err, ErrGuest) {
				t.Fatalf("Pop: %v, %v", ok, err)
			}
			if !ok {
				return
			}
			b := make([]byte, 4)
			if n := got.Readable.CopyOut(b) + got.Writable.CopyOut(b); n != 4 || b[0] != 7 {
				t.Errorf("% x of %d bytes", b, n)
			}
			if err := q.Push(got, 0); err != nil {
				t.Error(err)
			}
		})
	}
}
