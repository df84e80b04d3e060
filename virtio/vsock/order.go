package vsock

// connList is a queue of connections, linked through the connections, so that
// joining and leaving cost nothing.
type connList struct{ head, tail *Conn }

func (l *connList) push(c *Conn) {
	c.queued, c.prev, c.next = true, l.tail, nil
	if l.tail == nil {
		l.head = c
	} else {
		l.tail.next = c
	}
	l.tail = c
}

func (l *connList) remove(c *Conn) {
	if c.prev == nil {
		l.head = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		l.tail = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.queued, c.prev, c.next = false, nil, nil
}

// resetQueue is a ring of headers that waits for the driver's buffers.
type resetQueue struct {
	ring    []header
	head, n int
}

const resetsKept = 64 // the longest backing an empty queue keeps

func (q *resetQueue) push(h header) {
	if q.n == len(q.ring) {
		next := make([]header, max(16, 2*len(q.ring)))
		for i := range q.n {
			next[i] = q.ring[(q.head+i)%len(q.ring)]
		}
		q.ring, q.head = next, 0
	}
	q.ring[(q.head+q.n)%len(q.ring)] = h
	q.n++
}

// pop takes the oldest one. Preconditions: n is not 0.
func (q *resetQueue) pop() header {
	h := q.ring[q.head]
	q.head = (q.head + 1) % len(q.ring)
	if q.n--; q.n == 0 && len(q.ring) > resetsKept {
		*q = resetQueue{}
	}
	return h
}
