package main

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// probeEvery is the time between two attempts, and so what a gap is exact to.
	probeEvery = 2 * time.Millisecond
	// probePatience is how long an attempt may take. A lost first packet of a TCP
	// connection is sent again after a second: such an attempt has failed.
	probePatience = 500 * time.Millisecond
	// probeMost bounds the attempts under way.
	probeMost = 256
)

// probe connects to a TCP address again and again, to find out for how long nobody
// answers there.
type probe struct {
	stop  context.CancelFunc
	over  chan struct{}
	heard chan time.Time // when an attempt began that was answered just now

	mu       sync.Mutex // guards what follows
	answered []time.Time
}

// startProbe begins to probe the address.
func startProbe(address string) *probe {
	ctx, cancel := context.WithCancel(context.Background())
	p := &probe{stop: cancel, over: make(chan struct{}), heard: make(chan time.Time)}
	go p.run(ctx, address)
	return p
}

func (p *probe) run(ctx context.Context, address string) {
	defer close(p.over)
	var attempts sync.WaitGroup
	defer attempts.Wait()
	slots := make(chan struct{}, probeMost)
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
		default: // an attempt fewer: the gap shows it
			continue
		}
		attempts.Go(func() {
			defer func() { <-slots }()
			begin := time.Now()
			d := net.Dialer{Timeout: probePatience}
			c, err := d.DialContext(ctx, "tcp", address)
			if err != nil {
				return
			}
			_ = c.Close()
			p.mu.Lock()
			p.answered = append(p.answered, begin)
			p.mu.Unlock()
			select {
			case p.heard <- begin:
			default:
			}
		})
	}
}

// last goes on until an attempt that begins from now on is answered, or patience
// is over, and returns the longest time between two attempts that were answered.
// 0 is that hardly any was.
func (p *probe) last(patience time.Duration) time.Duration {
	from := time.Now()
	timeout := time.After(patience)
	for waiting := true; waiting; {
		select {
		case at := <-p.heard:
			waiting = at.Before(from)
		case <-timeout:
			waiting = false
		}
	}
	p.end()
	slices.SortFunc(p.answered, time.Time.Compare)
	var longest time.Duration
	for i := 1; i < len(p.answered); i++ {
		longest = max(longest, p.answered[i].Sub(p.answered[i-1]))
	}
	return longest
}

// end stops probing.
func (p *probe) end() {
	p.stop()
	<-p.over
}
