package virtiotest

import (
	"slices"
	"testing"

	"github.com/hvctl/hvctl/memory"
)

func gpa(v uint64) memory.GPA { return memory.GPA(v) }

// Malformed is one way to break a queue. Break is called on a fresh, live queue
// and leaves something offered.
type Malformed struct {
	Name  string
	Break func(q *Queue)
}

// Corpus returns the malformed chains of the suite: a device that pops one must
// end in NEEDS_RESET, with any device code.
func Corpus() []Malformed {
	one := func(x Desc) func(*Queue) {
		return func(q *Queue) {
			q.WriteDesc(0, x)
			q.Offer(0)
		}
	}
	indirect := func(descs ...Desc) func(*Queue) {
		return func(q *Queue) {
			t := q.WriteTable(descs...)
			q.WriteDesc(0, Desc{Addr: t, Len: uint32(16 * len(descs)), Flags: FlagIndirect})
			q.Offer(0)
		}
	}
	ok := Desc{Addr: 0x100, Len: 8, Flags: FlagWrite}
	return []Malformed{
		{"head out of range", func(q *Queue) { q.Offer(q.size) }},
		{"head far out of range", func(q *Queue) { q.Offer(0xffff) }},
		{"avail index jumps", func(q *Queue) { q.fill(q.size + 1) }},
		{"avail index goes back", func(q *Queue) { q.fill(0xffff) }},
		{"next out of range", one(Desc{Addr: 0x100, Len: 8, Flags: FlagNext, Next: 0xfff0})},
		{"loop on itself", one(Desc{Addr: 0x100, Len: 8, Flags: FlagNext})},
		{"loop of two", func(q *Queue) {
			q.WriteDesc(0, Desc{Addr: 0x100, Len: 8, Flags: FlagNext | FlagWrite, Next: 1})
			q.WriteDesc(1, Desc{Addr: 0x100, Len: 8, Flags: FlagNext | FlagWrite, Next: 0})
			q.Offer(1)
		}},
		{"no length", one(Desc{Addr: 0x100})},
		{"no length, writable", one(Desc{Addr: 0x100, Flags: FlagWrite})},
		{"past the end of RAM", func(q *Queue) { one(Desc{Addr: gpa(q.d.o.MemBytes) - 4, Len: 8})(q) }},
		{"outside RAM", one(Desc{Addr: 1 << 40, Len: 8})},
		{"address wraps", one(Desc{Addr: ^memory.GPA(3), Len: 8, Flags: FlagWrite})},
		{"longer than RAM", one(Desc{Addr: 0, Len: 0xffffffff, Flags: FlagWrite})},
		{"readable after writable", func(q *Queue) {
			q.WriteDesc(0, Desc{Addr: 0x100, Len: 8, Flags: FlagWrite | FlagNext, Next: 1})
			q.WriteDesc(1, Desc{Addr: 0x200, Len: 8})
			q.Offer(0)
		}},
		{"indirect with next", one(Desc{Addr: 0x100, Len: 16, Flags: FlagIndirect | FlagNext})},
		{"indirect table empty", one(Desc{Addr: 0x100, Flags: FlagIndirect})},
		{"indirect table no multiple of 16", func(q *Queue) {
			t := q.WriteTable(ok, ok)
			one(Desc{Addr: t, Len: 24, Flags: FlagIndirect})(q)
		}},
		{"indirect table outside RAM", one(Desc{Addr: 1 << 41, Len: 16, Flags: FlagIndirect})},
		{"indirect in indirect", func(q *Queue) {
			t := q.WriteTable(ok)
			indirect(Desc{Addr: t, Len: 16, Flags: FlagIndirect})(q)
		}},
		{"indirect next out of range", indirect(Desc{Addr: 0x100, Len: 8, Flags: FlagNext, Next: 1})},
		{"indirect loop", indirect(
			Desc{Addr: 0x100, Len: 8, Flags: FlagNext, Next: 1},
			Desc{Addr: 0x100, Len: 8, Flags: FlagNext, Next: 0})},
		{"indirect after buffers, then bad", func(q *Queue) {
			t := q.WriteTable(Desc{Addr: 0x100, Len: 8, Flags: FlagNext, Next: 7})
			q.WriteDesc(0, Desc{Addr: 0x100, Len: 8, Flags: FlagNext, Next: 1})
			q.WriteDesc(1, Desc{Addr: t, Len: 16, Flags: FlagIndirect})
			q.Offer(0)
		}},
		{"same chain twice", func(q *Queue) {
			// Only a mistake while the first is in flight; a device that has
			// pushed it sees an avail index that runs ahead instead.
			q.WriteDesc(0, ok)
			q.Offer(0)
			q.SetAvailIdx(q.idx + 2*q.size)
		}},
	}
}

// fill makes every ring entry a chain that is fine by itself, then publishes
// idx alone.
func (q *Queue) fill(idx uint16) {
	for i := range q.size {
		q.WriteDesc(i, Desc{Addr: 0x100, Len: 8, Flags: FlagWrite})
		q.put(i, i)
	}
	q.SetAvailIdx(idx)
}

// malformedChains sends the corpus to every queue. The device must notice, and
// must work after a reset; an idle queue may also wait for its host side, and
// when that is elsewhere, too, there is nothing to see.
func malformedChains(t testing.TB, s Suite, link func() Link) {
	d := s.start(t, link)
	for i := range d.NumQueues() {
		idle, taken := slices.Contains(s.Idle, i), slices.Contains(s.Taken, i)
		if idle && taken {
			continue
		}
		for _, m := range Corpus() {
			d.Renew()
			seen := d.Link.ConfigInterrupts()
			m.Break(d.Queue(i))
			if taken {
				d.Queue(i).Kick()
				Poll(d.needsReset)
			} else {
				d.Queue(i).Settle()
			}
			switch {
			case d.needsReset():
				d.WaitConfigInterrupt(seen) // §2.1.2
			case !idle:
				t.Errorf("queue %d, %s: not noticed, status %#02x", i, m.Name, uint8(d.Link.Status()))
			case d.Queue(i).UsedIdx() != 0:
				t.Errorf("queue %d, %s: the device used it", i, m.Name)
			}
			if f := d.Failures(); len(f) > 0 {
				t.Fatalf("queue %d, %s: the guest failed the machine: %v", i, m.Name, f)
			}
		}
	}
	d.Renew()
	s.works(t, d)
}

func resetTwice(t testing.TB, s Suite, link func() Link) {
	d := s.start(t, link)
	for range 3 {
		s.works(t, d)
		d.Link.SetStatus(0)
		d.Link.SetStatus(0)
		if got := d.Link.Status(); got != 0 {
			t.Fatalf("status after reset %#02x", uint8(got))
		}
		for i := range d.Link.NumQueues() {
			if d.Link.Core().QueueEnabled(i) {
				t.Errorf("queue %d is enabled after reset", i)
			}
		}
		d.Renew()
	}
	s.works(t, d)
}

// resetUnderLoad resets while the workers have work, some of it rubbish.
func resetUnderLoad(t testing.TB, s Suite, link func() Link) {
	rnd := seeded(t)
	d := s.start(t, link)
	for range 60 {
		for i := range d.NumQueues() {
			q := d.Queue(i)
			for range rnd.IntN(int(q.size)) {
				head := uint16(rnd.IntN(int(q.size)))
				q.WriteDesc(head, Desc{
					Addr: gpa(rnd.Uint64N(d.o.MemBytes/2) + d.o.MemBytes/2), Len: 1 + rnd.Uint32N(4096),
					Flags: uint16(rnd.IntN(4)), Next: uint16(rnd.IntN(int(q.size))),
				})
				q.Offer(head)
			}
			q.Kick()
		}
		d.Renew()
	}
	s.works(t, d)
	if d.Link.Status() != live {
		t.Errorf("status %#02x at the end", uint8(d.Link.Status()))
	}
}
