package virtio

import "github.com/hvctl/hvctl/memory"

// Flush raises the queue's interrupt if something was pushed since the last
// Flush and the driver wants to know (§2.7.7.2). The core calls it after
// HandleQueue; a device calls it itself where the driver should not wait for
// the rest of a batch. An error is ours.
func (q *Queue) Flush() error {
	old, now := q.signalled, q.state.NextUsed
	if old == now {
		return nil
	}
	q.signalled = now
	want, err := q.wanted(old, now)
	if err != nil {
		return err
	}
	if !want {
		q.metrics.Suppressed.Add(1)
		return nil
	}
	q.metrics.Interrupts.Add(1)
	return q.irq.Queue(q.index)
}

// wanted asks the driver's area. Storing used.idx was a full fence, so if the
// driver changed its mind before it saw the new index, we see that here.
func (q *Queue) wanted(old, now uint16) (bool, error) {
	if !q.eventIdx {
		flags, err := q.mem.LoadUint16(q.state.Avail + availFlags)
		return flags&availNoInterrupt == 0, err
	}
	event, err := q.mem.LoadUint16(q.state.Avail + availRing + 2*memory.GPA(q.state.Size))
	return now-event-1 < now-old, err // in 16 bits, which wrap with the indices
}

// mute asks the driver not to ring while the worker pops anyway. With the event
// index there is nothing to do: the stale avail_event has been passed. A run
// that pops nothing leaves the doorbell as it was.
func (q *Queue) mute() error {
	if q.eventIdx || q.muted {
		return nil
	}
	q.muted = true
	return q.mem.StoreUint16(q.state.Used+usedFlags, usedNoNotify)
}

// unmute asks the driver to ring for the next chain, then looks once more: one
// that was offered before the driver saw the request gets no doorbell
// (§2.7.10). It reports whether there is one. It does nothing unless the ring
// was found empty: a worker that left chains waits for its host side. Chains
// it took back with Unpop after that are not news: it waits for more.
func (q *Queue) unmute() (more bool, err error) {
	if !q.drained {
		return false, nil
	}
	if q.eventIdx {
		err = q.mem.StoreUint16(q.state.Used+usedRing+8*memory.GPA(q.state.Size), q.availSeen)
	} else {
		q.muted = false
		err = q.mem.StoreUint16(q.state.Used+usedFlags, 0)
	}
	if err != nil {
		return false, err
	}
	idx, err := q.mem.LoadUint16(q.state.Avail + availIdx)
	return idx != q.availSeen, err
}
