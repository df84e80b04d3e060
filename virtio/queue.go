package virtio

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/memory"
)

// Chain is one validated descriptor chain: first what the device may read,
// then what it may write (§2.7.4.2). The guest can still change the bytes.
// Valid until it is pushed.
type Chain struct {
	Head     uint16 // names the chain to the driver
	Readable memory.Vec
	Writable memory.Vec
}

// Queue is one split virtqueue (§2.7), device side. Pop, Unpop, Push and Flush
// may be called only from HandleQueue for this queue (one goroutine); results
// that come up elsewhere wait until an Env.Kick brings that goroutine there.
type Queue struct {
	index   int
	max     uint16
	kick    *eventfd.EventFD
	stop    atomic.Bool   // Pop finds nothing any more: the worker is wanted back
	runs    atomic.Uint64 // HandleQueue calls that returned no error
	mem     *memory.Guest
	irq     Interrupt
	metrics *Metrics

	// Set by the registers under Core.mu, then by the worker while one runs.
	state QueueState

	// The worker's.
	desc      []byte // host view of the descriptor table
	indirect  bool   // negotiated
	eventIdx  bool   // negotiated
	availSeen uint16 // avail.idx as last loaded; chains up to it are offered
	signalled uint16 // used.idx at the last decision on an interrupt
	drained   bool   // the last Pop of this run found the ring empty
	muted     bool   // used.flags says NO_NOTIFY
	inflight  []*chainBuf
	popped    int         // chains in flight
	free      []*chainBuf // reused backing
	long      int         // those of free that are longer than most
}

// Index returns the queue's index in the device.
func (q *Queue) Index() int { return q.index }

// Size returns the number of entries the driver chose.
func (q *Queue) Size() uint16 { return q.state.Size }

// Enabled reports whether the driver set the queue up. Ask it in Activate or
// later.
func (q *Queue) Enabled() bool { return q.state.Enabled }

// prepare validates the queue and makes it ready for a worker. Core.mu is held
// and no worker runs.
func (q *Queue) prepare(mem *memory.Guest, f Features) error {
	if err := q.state.check(mem, q.max); err != nil {
		return fmt.Errorf("queue %d: %w", q.index, err)
	}
	desc, err := mem.Slice(q.state.Desc, q.state.descLen())
	if err != nil {
		return err
	}
	q.mem, q.desc = mem, desc
	q.indirect, q.eventIdx = f.Has(FeatureIndirectDesc), f.Has(FeatureEventIdx)
	q.availSeen, q.signalled = q.state.NextAvail, q.state.NextUsed
	q.drained, q.muted, q.popped = false, false, 0
	q.inflight = make([]*chainBuf, q.state.Size)
	return nil
}

// reset forgets everything the driver said.
func (q *Queue) reset() {
	q.state = QueueState{Size: q.max}
	q.desc, q.inflight, q.free, q.long, q.popped = nil, nil, nil, 0, 0
}

const (
	availFlags, availIdx, availRing = 0, 2, 4 // offsets in the avail ring
	usedFlags, usedIdx, usedRing    = 0, 2, 4 // offsets in the used ring
	availNoInterrupt                = 1       // VIRTQ_AVAIL_F_NO_INTERRUPT
	usedNoNotify                    = 1       // VIRTQ_USED_F_NO_NOTIFY
)

// Pop takes the next chain off the avail ring. ok is false when there is none,
// and when the worker is being stopped. The chain has been validated: indices
// in range, no loop, readable before writable, every buffer inside RAM or
// lent memory, at most 4 GiB in all. An error wraps ErrGuest; return it from HandleQueue.
func (q *Queue) Pop() (c Chain, ok bool, err error) {
	if q.stop.Load() {
		return Chain{}, false, nil
	}
	next := q.state.NextAvail
	if q.availSeen == next {
		// §2.7.13.3: the driver stores the ring entry before the index; the
		// load acquires.
		idx, err := q.mem.LoadUint16(q.state.Avail + availIdx)
		if err != nil {
			return Chain{}, false, GuestErrorf("avail ring: %w", err)
		}
		if n := idx - next; n > q.state.Size {
			return Chain{}, false, GuestErrorf("queue %d: avail index went from %d to %d in a ring of %d", q.index, next, idx, q.state.Size)
		} else if n == 0 {
			q.drained = true
			return Chain{}, false, nil
		}
		q.availSeen = idx
	}
	head, err := q.mem.LoadUint16(q.state.Avail + availRing + 2*memory.GPA(next&(q.state.Size-1)))
	if err != nil {
		return Chain{}, false, GuestErrorf("avail ring: %w", err)
	}
	if head >= q.state.Size || q.inflight[head] != nil {
		return Chain{}, false, GuestErrorf("queue %d: chain head %d is out of range or already in flight", q.index, head)
	}
	b := q.take()
	if err := q.walk(head, b); err != nil {
		q.give(b)
		return Chain{}, false, fmt.Errorf("queue %d head %d: %w", q.index, head, err)
	}
	if err := q.mute(); err != nil {
		q.give(b)
		return Chain{}, false, GuestErrorf("used ring: %w", err)
	}
	q.inflight[head] = b
	q.popped++
	q.state.NextAvail++
	q.drained = false
	return Chain{Head: head, Readable: b.readable, Writable: b.writable}, true, nil
}

// Unpop puts c back as if it had not been popped: for a device that finds it
// cannot use it yet. Chains go back in the reverse order of their Pops, with
// no Pop in between.
func (q *Queue) Unpop(c Chain) error {
	if err := q.release(c.Head); err != nil {
		return err
	}
	q.state.NextAvail--
	return nil
}

// Push gives c back to the driver, of whose writable part the device has
// filled the first written bytes. The whole writable part counts as dirty. The
// driver sees the chain at once; the interrupt comes with the next Flush,
// which the core does after HandleQueue. An error is a bug in the device.
func (q *Queue) Push(c Chain, written uint32) error {
	if int(c.Head) >= len(q.inflight) || q.inflight[c.Head] == nil {
		return fmt.Errorf("queue %d: push of chain %d that is not in flight", q.index, c.Head)
	}
	w := q.inflight[c.Head].writable // the device may have narrowed its copy
	if uint64(written) > uint64(w.Len()) {
		return fmt.Errorf("queue %d: push of %d bytes into chain %d of %d", q.index, written, c.Head, w.Len())
	}
	q.mem.MarkVecDirty(w, w.Len())
	var e [8]byte
	binary.LittleEndian.PutUint32(e[0:], uint32(c.Head))
	binary.LittleEndian.PutUint32(e[4:], written)
	at := q.state.Used + usedRing + 8*memory.GPA(q.state.NextUsed&(q.state.Size-1))
	if err := q.mem.WriteAt(e[:], at); err != nil {
		return err
	}
	// §2.7.8.2: the device sets the element before idx.
	if err := q.mem.StoreUint16(q.state.Used+usedIdx, q.state.NextUsed+1); err != nil {
		return err
	}
	q.state.NextUsed++
	q.metrics.Chains.Add(1)
	return q.release(c.Head)
}

// release ends the flight of head.
func (q *Queue) release(head uint16) error {
	if int(head) >= len(q.inflight) || q.inflight[head] == nil {
		return fmt.Errorf("queue %d: chain %d is not in flight", q.index, head)
	}
	q.give(q.inflight[head])
	q.inflight[head] = nil
	q.popped--
	return nil
}

// Rings returns the queue's place in guest memory and its indices, for a
// RingTaker.
func (q *Queue) Rings() QueueState { return q.state }

// KickFD returns the eventfd behind the doorbell, for a RingTaker.
func (q *Queue) KickFD() *eventfd.EventFD { return q.kick }

// SetNext sets the indices where a RingTaker's other side stopped: the next
// avail entry to take and the next used entry to write. The driver has been told
// of what was used before.
func (q *Queue) SetNext(avail, used uint16) {
	q.state.NextAvail, q.state.NextUsed = avail, used
	q.availSeen, q.signalled = avail, used
}
