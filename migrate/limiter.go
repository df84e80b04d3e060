package migrate

import (
	"context"
	"sync"
	"time"
)

// limiter spreads bytes over time, for all streams together. The zero value
// does not limit.
type limiter struct {
	rate uint64 // bytes per second; 0 is no limit

	mu   sync.Mutex // guards next
	next time.Time  // when the bytes let through so far are paid for
}

// burst is how far ahead of its rate a limiter lets bytes through.
const burst = 10 * time.Millisecond

// wait blocks until n bytes may be sent.
func (l *limiter) wait(ctx context.Context, n int) error {
	if l.rate == 0 {
		return nil
	}
	l.mu.Lock()
	now := time.Now()
	if l.next.Before(now) {
		l.next = now
	}
	due := l.next.Sub(now) - burst
	l.next = l.next.Add(time.Duration(uint64(n) * uint64(time.Second) / l.rate))
	l.mu.Unlock()
	if due <= 0 {
		return nil
	}
	t := time.NewTimer(due)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
