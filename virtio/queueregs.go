package virtio

import (
	"context"

	"github.com/hvctl/hvctl/memory"
)

// NumQueues returns how many queues the device has.
func (c *Core) NumQueues() int { return len(c.queues) }

// QueueMax returns the largest size of queue i, 0 when there is none.
func (c *Core) QueueMax(i int) uint16 {
	if i < 0 || i >= len(c.queues) {
		return 0
	}
	return c.queues[i].max
}

// QueueSize returns the size the driver chose, at first the largest.
func (c *Core) QueueSize(i int) uint16 {
	return withQueue(c, i, func(q *Queue) uint16 { return q.state.Size })
}

// QueueEnabled reports whether the driver enabled queue i.
func (c *Core) QueueEnabled(i int) bool {
	return withQueue(c, i, func(q *Queue) bool { return q.state.Enabled })
}

// QueueAddr returns one of the queue's addresses.
func (c *Core) QueueAddr(i int, p RingPart) memory.GPA {
	return withQueue(c, i, func(q *Queue) memory.GPA { return *q.state.part(p) })
}

func withQueue[T any](c *Core, i int, get func(*Queue) T) (zero T) {
	if i < 0 || i >= len(c.queues) {
		return zero
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return get(c.queues[i])
}

// configure runs set on queue i if the driver may set it up now: after
// FEATURES_OK, before DRIVER_OK, and not once it is enabled (§3.1.1 step 7).
// At any other time the write is dropped. What was set is judged at DRIVER_OK.
func (c *Core) configure(i int, set func(*Queue)) {
	if i < 0 || i >= len(c.queues) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Status() == statusFeatures && !c.queues[i].state.Enabled {
		set(c.queues[i])
	}
}

// SetQueueSize is the driver's write of the queue size.
func (c *Core) SetQueueSize(i int, n uint16) {
	c.configure(i, func(q *Queue) { q.state.Size = n })
}

// SetQueueAddr is the driver's write of half an address: the upper 32 bits
// when high is set, else the lower ones.
func (c *Core) SetQueueAddr(i int, p RingPart, high bool, v uint32) {
	c.configure(i, func(q *Queue) {
		a := q.state.part(p)
		if high {
			*a = *a&0xffffffff | memory.GPA(v)<<32
		} else {
			*a = *a&^0xffffffff | memory.GPA(v)
		}
	})
}

// EnableQueue makes queue i one of those that DRIVER_OK starts.
func (c *Core) EnableQueue(i int) {
	c.configure(i, func(q *Queue) { q.state.Enabled = true })
}

// DisableQueue takes queue i back, at any time: when it returns, the device no
// longer touches its memory (§4.2.2.2). It cannot be enabled again before a
// reset once the device is live.
func (c *Core) DisableQueue(i int) {
	if i < 0 || i >= len(c.queues) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queues[i]
	if c.run == nil || !q.state.Enabled || !c.taken(q) {
		if c.run != nil {
			c.run.joinQueue(q)
		}
		q.state.Enabled = false
		return
	}
	// What serves it elsewhere is the device's to stop.
	_ = c.join(context.Background())
	q.state.Enabled = false
	if c.Status().running() && !c.paused {
		c.start()
	}
}
