package blk

import (
	"fmt"
	"sync"
	"time"

	"github.com/hvctl/hvctl/virtio"
)

// Limits hold a disk to a rate; 0 is no limit.
type Limits struct {
	IOPS uint64 // requests a second
	BPS  uint64 // bytes a second
}

// maxRate keeps the arithmetic of a bucket in its bounds.
const maxRate = 1 << 40

func (l Limits) check() error {
	if l.IOPS > maxRate || l.BPS > maxRate {
		return fmt.Errorf("%w: limits of %d requests and %d bytes a second; at most %d are possible", virtio.ErrArgs, l.IOPS, l.BPS, uint64(maxRate))
	}
	return nil
}

// burst is how much of its rate an idle disk saves up.
const burst = 100 * time.Millisecond

// bucket is the token bucket of a disk, for all its queues. A request passes
// when there is something left of both, however much it takes: what it took too
// much is paid back before the next one. So no request is too large, and the
// rate holds over time.
type bucket struct {
	mu     sync.Mutex // guards what follows
	limits Limits
	at     time.Time
	ops    float64 // what is left; below 0 is debt
	bytes  float64
}

func (b *bucket) set(l Limits) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limits = l
	b.ops, b.bytes = float64(l.IOPS)*burst.Seconds(), float64(l.BPS)*burst.Seconds()
	b.at = time.Now()
}

// take pays for a request of n bytes, or says after what time to ask again.
func (b *bucket) take(n int) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limits == (Limits{}) {
		return 0
	}
	now := time.Now()
	passed := now.Sub(b.at).Seconds()
	b.at = now
	wait = max(fill(&b.ops, b.limits.IOPS, passed), fill(&b.bytes, b.limits.BPS, passed))
	if wait == 0 {
		b.ops--
		b.bytes -= float64(n)
	}
	return wait
}

// fill adds what came in the time that passed, and returns when something will
// be left.
func fill(left *float64, rate uint64, passed float64) time.Duration {
	if rate == 0 {
		*left = 0
		return 0
	}
	*left = min(*left+float64(rate)*passed, max(float64(rate)*burst.Seconds(), 1))
	if *left > 0 {
		return 0
	}
	return min(time.Duration(-*left/float64(rate)*float64(time.Second))+time.Millisecond, time.Minute)
}

// pacer wakes a queue that had to wait for its limits.
type pacer struct{ timer *time.Timer }

// again has the queue served once more after wait. The queue's worker sleeps
// meanwhile, so nothing has to wait for it.
func (p *pacer) again(env *virtio.Env, q *virtio.Queue, wait time.Duration) {
	if p.timer != nil {
		p.timer.Stop()
	}
	p.timer = time.AfterFunc(wait, func() { env.Kick(q.Index()) })
}

// SetLimits changes the limits of a disk, at any time.
func (d *Device) SetLimits(l Limits) error {
	if err := l.check(); err != nil {
		return err
	}
	d.limit.set(l)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.env != nil {
		for i := range d.workers { // who waits asks again
			d.env.Kick(i)
		}
	}
	return nil
}

// Limits returns the limits that hold.
func (d *Device) Limits() Limits {
	d.limit.mu.Lock()
	defer d.limit.mu.Unlock()
	return d.limit.limits
}
