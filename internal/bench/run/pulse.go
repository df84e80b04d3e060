package run

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/bench/probe"
)

// pulse follows the beats of a program.
type pulse struct {
	mu      sync.Mutex
	last    probe.Tick
	at      time.Time // when last was read
	err     error     // why there are no more
	changed chan struct{}
}

// follow reads beats from r until it ends. The reader is the caller's to close.
func follow(r io.Reader) *pulse {
	p := &pulse{changed: make(chan struct{})}
	go func() {
		in := bufio.NewScanner(r)
		for in.Scan() {
			var t probe.Tick
			if err := json.Unmarshal(in.Bytes(), &t); err != nil {
				p.set(t, fmt.Errorf("no beat: %.200q", in.Text()))
				return
			}
			p.set(t, nil)
		}
		p.set(probe.Tick{}, errors.Join(errors.New("it beats no more"), in.Err()))
	}()
	return p
}

func (p *pulse) set(t probe.Tick, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.err = err
	} else {
		p.last, p.at = t, time.Now()
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// latest is the last beat, and when it was read.
func (p *pulse) latest() (probe.Tick, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last, p.at
}

// beyond waits for a beat after the nth.
func (p *pulse) beyond(ctx context.Context, n int) (probe.Tick, time.Time, error) {
	for {
		p.mu.Lock()
		t, at, err, changed := p.last, p.at, p.err, p.changed
		p.mu.Unlock()
		switch {
		case t.N > n:
			return t, at, nil
		case err != nil:
			return t, at, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return t, at, context.Cause(ctx)
		}
	}
}
