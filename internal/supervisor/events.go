package supervisor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/control"
)

// broker hands events to whoever listens. It never waits for a listener.
type broker struct {
	mu     sync.Mutex
	subs   map[chan control.Event]struct{}
	closed bool
}

// backlog is how far a listener may fall behind before it is dropped.
const backlog = 256

func (b *broker) subscribe() chan control.Event {
	c := make(chan control.Event, backlog)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		close(c)
		return c
	}
	if b.subs == nil {
		b.subs = map[chan control.Event]struct{}{}
	}
	b.subs[c] = struct{}{}
	return c
}

func (b *broker) unsubscribe(c chan control.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.subs[c]; ok {
		delete(b.subs, c)
		close(c)
	}
}

func (b *broker) publish(e control.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.subs {
		select {
		case c <- e:
		default:
			delete(b.subs, c)
			close(c)
		}
	}
}

func (b *broker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for c := range b.subs {
		close(c)
	}
	b.subs = nil
}

func (o *owner) event(typ string, attr map[string]string) {
	e := control.Event{Time: time.Now(), Type: typ, ID: o.cfg.ID, Name: o.cfg.Name, Attr: attr}
	o.bus.publish(e)
	b, err := json.Marshal(e)
	if err == nil {
		err = o.inst.AppendEvent(b)
	}
	if err != nil {
		o.log.Warn("recording an event", "type", typ, "err", err)
	}
}

// Events implements control.Owner.
func (o *owner) Events(ctx context.Context, ready func(), fn func(control.Event) error) error {
	c := o.bus.subscribe()
	defer o.bus.unsubscribe(c)
	ready()
	for {
		select {
		case e, ok := <-c:
			if !ok {
				return nil
			}
			if err := fn(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("events: %w", context.Cause(ctx))
		}
	}
}

func newSessionID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
