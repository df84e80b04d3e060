package machine

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hvctl/hvctl/kvm"
)

// throttlePeriod is how often a slowed vCPU is held back. It bounds how long the
// guest notices nothing at a time.
const throttlePeriod = 10 * time.Millisecond

// throttle takes time away from the vCPUs, the same stretch of each period from
// all.
type throttle struct {
	percent atomic.Int32
	stop    chan struct{}
	ended   chan struct{}
}

// Throttle implements migrate.Throttler: it takes percent (0 to 99) of the vCPUs'
// time away, until it is called again or the machine is paused.
func (m *Machine) Throttle(percent int) error {
	if percent < 0 || percent > 99 {
		return fmt.Errorf("%w: throttle by %d percent, want 0 to 99", ErrConfig, percent)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed || m.ended.Load():
		return ErrEnded
	case percent == 0 || m.paused.Load():
		m.unthrottle()
	case m.slow != nil:
		m.slow.percent.Store(int32(percent))
	default:
		m.slow = &throttle{stop: make(chan struct{}), ended: make(chan struct{})}
		m.slow.percent.Store(int32(percent))
		go m.slow.run(m)
	}
	return nil
}

// unthrottle ends what Throttle began, in the middle of a stretch if need be. The
// caller holds mu.
func (m *Machine) unthrottle() {
	if m.slow == nil {
		return
	}
	close(m.slow.stop)
	<-m.slow.ended
	m.slow = nil
}

func (t *throttle) run(m *Machine) {
	defer close(t.ended)
	for {
		held := throttlePeriod * time.Duration(t.percent.Load()) / 100
		var all sync.WaitGroup
		for _, c := range m.cpus {
			all.Go(func() {
				// A vCPU that has ended needs no holding.
				_ = c.Do(func(*kvm.VCPU) error { t.wait(held); return nil })
			})
		}
		all.Wait()
		if !t.wait(throttlePeriod - held) {
			return
		}
	}
}

// wait reports whether the time passed without the throttle being ended.
func (t *throttle) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.stop:
		return false
	}
}
