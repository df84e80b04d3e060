package virtio

import (
	"sync"
	"time"
)

// logEvery is the shortest time between two log lines that one device's driver
// can cause. A guest must not fill the host's disk.
const logEvery = 10 * time.Second

// limiter lets one event through per logEvery and counts the others.
type limiter struct {
	mu      sync.Mutex // guards what follows
	last    time.Time
	skipped uint64
}

func (l *limiter) allow() (skipped uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.last.IsZero() && now.Sub(l.last) < logEvery {
		l.skipped++
		return 0, false
	}
	skipped, l.skipped, l.last = l.skipped, 0, now
	return skipped, true
}
