package main

import (
	"sync"
	"time"
)

const (
	// beatEvery is how often a beat looks at the clock: its gaps are that exact.
	beatEvery = 2 * time.Millisecond
	// beatLimit ends a beat that nobody asks about any more.
	beatLimit = time.Hour
)

// beat measures for how long this guest did not run. The guest's own clock goes on
// while it is moved to another host, and so shows it.
type beat struct {
	mu      sync.Mutex    // guards what follows
	stop    chan struct{} // nil: it does not beat
	longest time.Duration
}

// watch starts the beat anew or ends it, and returns the longest time between two
// looks at the clock since it was started before.
func (b *beat) watch(on bool) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.longest
	if b.stop != nil {
		close(b.stop)
		b.stop = nil
	}
	b.longest = 0
	if on {
		b.stop = make(chan struct{})
		go b.run(b.stop)
	}
	return was
}

func (b *beat) run(stop chan struct{}) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	limit := time.Now().Add(beatLimit)
	for last := time.Now(); last.Before(limit); {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		now := time.Now()
		b.note(stop, now.Sub(last))
		last = now
	}
}

// note keeps a gap of the beat that stop ends, if it is the longest.
func (b *beat) note(stop chan struct{}, gap time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop == stop {
		b.longest = max(b.longest, gap)
	}
}
