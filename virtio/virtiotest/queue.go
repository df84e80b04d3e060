package virtiotest

import (
	"encoding/binary"
	"fmt"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// Buf is one buffer of a chain.
type Buf struct {
	data  []byte
	n     int
	write bool
	at    *memory.GPA
}

// Out is a device-readable buffer that holds p.
func Out(p []byte) Buf { return Buf{data: p, n: len(p)} }

// In is a device-writable buffer of n bytes.
func In(n int) Buf { return Buf{n: n, write: true} }

// At is a buffer at a place of the test's choice, which may be impossible.
func At(a memory.GPA, n int, write bool) Buf { return Buf{n: n, write: write, at: &a} }

// Descriptor flags, for WriteDesc.
const (
	FlagNext     = 1
	FlagWrite    = 2
	FlagIndirect = 4
)

// Desc is one descriptor as the device will read it.
type Desc struct {
	Addr  memory.GPA
	Len   uint32
	Flags uint16
	Next  uint16
}

func (x Desc) bytes() []byte {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[0:], uint64(x.Addr))
	binary.LittleEndian.PutUint32(b[8:], x.Len)
	binary.LittleEndian.PutUint16(b[12:], x.Flags)
	binary.LittleEndian.PutUint16(b[14:], x.Next)
	return b[:]
}

// Used is a chain that came back.
type Used struct {
	Head    uint16
	Written uint32 // as the device reported
	In      []byte // the writable buffers, whole, one after the other
}

// Queue is the driver's side of one virtqueue.
type Queue struct {
	d                 *Driver
	index             int
	size              uint16
	desc, avail, used memory.GPA
	idx               uint16 // avail.idx as published
	seen              uint16 // used elements taken
	free              []uint16
	pending           map[uint16]pending
}

type pending struct {
	descs []uint16
	in    []Desc
}

func newQueue(d *Driver, i int, size uint16) *Queue {
	d.T.Helper()
	q := &Queue{d: d, index: i, size: size, pending: map[uint16]pending{}}
	n := int(size)
	q.desc, q.avail, q.used = d.Alloc(16*n, 16), d.Alloc(6+2*n, 2), d.Alloc(6+8*n, 4)
	for a, n := range map[memory.GPA]int{q.desc: 16 * n, q.avail: 6 + 2*n, q.used: 6 + 8*n} {
		d.Write(a, make([]byte, n))
	}
	for k := range size {
		q.free = append(q.free, size-1-k)
	}
	return q
}

// Size returns the number of entries.
func (q *Queue) Size() uint16 { return q.size }

// build places bufs in guest memory and returns their descriptors, unlinked.
func (q *Queue) build(bufs []Buf) (all, in []Desc) {
	q.d.T.Helper()
	for _, b := range bufs {
		x := Desc{Len: uint32(b.n)}
		if b.at != nil {
			x.Addr = *b.at
		} else {
			x.Addr = q.d.Alloc(b.n, 8)
			fresh := b.data
			if b.write {
				fresh = make([]byte, b.n)
			}
			q.d.Write(x.Addr, fresh)
		}
		if b.write {
			x.Flags = FlagWrite
			in = append(in, x)
		}
		all = append(all, x)
	}
	return all, in
}

// Add offers a chain of bufs, one descriptor each, and returns its head.
func (q *Queue) Add(bufs ...Buf) uint16 {
	q.d.T.Helper()
	descs, in := q.build(bufs)
	if len(descs) > len(q.free) || len(descs) == 0 {
		q.d.T.Fatalf("queue %d: chain of %d with %d descriptors free", q.index, len(descs), len(q.free))
	}
	slots := make([]uint16, len(descs))
	for i := range descs {
		slots[i] = q.free[len(q.free)-1-i]
	}
	q.free = q.free[:len(q.free)-len(descs)]
	for i, x := range descs {
		if i+1 < len(descs) {
			x.Flags |= FlagNext
			x.Next = slots[i+1]
		}
		q.WriteDesc(slots[i], x)
	}
	q.pending[slots[0]] = pending{slots, in}
	q.Offer(slots[0])
	return slots[0]
}

// AddIndirect offers a chain of bufs through an indirect table.
func (q *Queue) AddIndirect(bufs ...Buf) uint16 {
	q.d.T.Helper()
	descs, in := q.build(bufs)
	if len(q.free) == 0 {
		q.d.T.Fatalf("queue %d: no descriptor free", q.index)
	}
	table := q.d.Alloc(16*len(descs), 16)
	for i, x := range descs {
		if i+1 < len(descs) {
			x.Flags |= FlagNext
			x.Next = uint16(i + 1)
		}
		q.d.Write(table+memory.GPA(16*i), x.bytes())
	}
	head := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.WriteDesc(head, Desc{Addr: table, Len: uint32(16 * len(descs)), Flags: FlagIndirect})
	q.pending[head] = pending{[]uint16{head}, in}
	q.Offer(head)
	return head
}

// WriteDesc stores x at index i of the descriptor table.
func (q *Queue) WriteDesc(i uint16, x Desc) {
	q.d.T.Helper()
	q.d.Write(q.desc+16*memory.GPA(i), x.bytes())
}

// WriteTable stores descs as an indirect table and returns where it is.
func (q *Queue) WriteTable(descs ...Desc) memory.GPA {
	q.d.T.Helper()
	a := q.d.Alloc(16*len(descs), 16)
	for i, x := range descs {
		q.d.Write(a+memory.GPA(16*i), x.bytes())
	}
	return a
}

// Offer puts head in the avail ring and publishes it.
func (q *Queue) Offer(head uint16) {
	q.d.T.Helper()
	q.put(q.idx, head)
	q.SetAvailIdx(q.idx + 1)
}

// put writes head as ring entry idx.
func (q *Queue) put(idx, head uint16) {
	q.d.T.Helper()
	var b [2]byte
	binary.LittleEndian.PutUint16(b[:], head)
	q.d.Write(q.avail+4+2*memory.GPA(idx%q.size), b[:])
}

// SetAvailIdx publishes idx as avail.idx, right or wrong.
func (q *Queue) SetAvailIdx(idx uint16) {
	q.d.T.Helper()
	q.idx = idx
	q.store(q.avail+2, idx)
}

func (q *Queue) store(a memory.GPA, v uint16) {
	q.d.T.Helper()
	if err := q.d.Mem.StoreUint16(a, v); err != nil {
		q.d.T.Fatal(err)
	}
}

func (q *Queue) load(a memory.GPA) uint16 {
	q.d.T.Helper()
	v, err := q.d.Mem.LoadUint16(a)
	if err != nil {
		q.d.T.Fatal(err)
	}
	return v
}

// Kick rings the doorbell whether or not the device wants it.
func (q *Queue) Kick() { q.d.Link.Ring(q.index) }

// WantsKick reports whether the device asks for a doorbell after avail.idx went
// from old to its present value (§2.7.7.1, §2.7.10).
func (q *Queue) WantsKick(old uint16) bool {
	q.d.T.Helper()
	if !q.d.Features.Has(virtio.FeatureEventIdx) {
		return q.load(q.used)&1 == 0
	}
	event := q.load(q.used + 4 + 8*memory.GPA(q.size))
	return q.idx-event-1 < q.idx-old
}

// NoInterrupts sets or clears VIRTQ_AVAIL_F_NO_INTERRUPT.
func (q *Queue) NoInterrupts(on bool) {
	q.d.T.Helper()
	v := uint16(0)
	if on {
		v = 1
	}
	q.store(q.avail, v)
}

// SetUsedEvent stores used_event: an interrupt when used.idx passes v.
func (q *Queue) SetUsedEvent(v uint16) {
	q.d.T.Helper()
	q.store(q.avail+4+2*memory.GPA(q.size), v)
}

// UsedIdx returns used.idx.
func (q *Queue) UsedIdx() uint16 {
	q.d.T.Helper()
	return q.load(q.used + 2)
}

// Wait returns the next used element; chains may come back in any order. The
// test fails when none comes or the device stops.
func (q *Queue) Wait() Used {
	q.d.T.Helper()
	q.d.Eventually(fmt.Sprintf("used element %d of queue %d", q.seen, q.index), func() bool {
		return q.UsedIdx() != q.seen || q.d.needsReset()
	})
	u, ok := q.TryWait()
	if !ok {
		q.d.T.Fatalf("queue %d: the device stopped (NEEDS_RESET) before element %d", q.index, q.seen)
	}
	return u
}

// TryWait returns the next used element if there is one.
func (q *Queue) TryWait() (Used, bool) {
	q.d.T.Helper()
	if q.UsedIdx() == q.seen {
		return Used{}, false
	}
	e := q.d.Read(q.used+4+8*memory.GPA(q.seen%q.size), 8)
	q.seen++
	id := binary.LittleEndian.Uint32(e)
	u := Used{Head: uint16(id), Written: binary.LittleEndian.Uint32(e[4:])}
	p, ok := q.pending[u.Head]
	if !ok || id > 0xffff {
		q.d.T.Fatalf("queue %d: used element for chain %d, which was not offered", q.index, id)
	}
	delete(q.pending, u.Head)
	q.free = append(q.free, p.descs...)
	for _, x := range p.in {
		u.In = append(u.In, q.d.Read(x.Addr, int(x.Len))...)
	}
	if int(u.Written) > len(u.In) {
		q.d.T.Errorf("queue %d: device claims %d bytes in a chain of %d", q.index, u.Written, len(u.In))
	}
	return u, true
}

// Do offers one chain, rings and waits for it.
func (q *Queue) Do(bufs ...Buf) Used {
	q.d.T.Helper()
	head := q.Add(bufs...)
	q.Kick()
	u := q.Wait()
	if u.Head != head {
		q.d.T.Fatalf("queue %d: chain %d came back, want %d", q.index, u.Head, head)
	}
	return u
}

// Settle returns when the worker has served the queue at least once from start
// to end since the call, or the device has stopped. Not for a queue whose
// worker waits for its host side.
func (q *Queue) Settle() {
	q.d.T.Helper()
	// The first run that ends may have begun before the call; the second, for
	// a doorbell rung after that, cannot have.
	for range 2 {
		runs := q.d.Link.Core().Runs(q.index)
		q.Kick()
		q.d.Eventually(fmt.Sprintf("a run of queue %d", q.index), func() bool {
			return q.d.Link.Core().Runs(q.index) != runs || q.d.Link.Status() != live || len(q.d.Failures()) > 0
		})
	}
}
