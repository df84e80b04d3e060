package balloon

import (
	"context"
	"encoding/binary"
	"sync/atomic"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

const (
	statLen  = 10   // struct virtio_balloon_stat, packed
	maxStats = 1024 // bytes of statistics that are looked at; Linux has 16 of them at most
)

// gauge is where a statistic goes, by its tag (§5.5.6.4); nil: we do not keep it.
func (m *Metrics) gauge(tag uint16) *atomic.Uint64 {
	switch tag {
	case 0:
		return &m.SwapIn
	case 1:
		return &m.SwapOut
	case 2:
		return &m.Major
	case 3:
		return &m.Minor
	case 4:
		return &m.Free
	case 5:
		return &m.Total
	case 6:
		return &m.Available
	case 7:
		return &m.Caches
	case 10:
		return &m.OOMKills
	}
	return nil
}

// serveStats reads what the guest told. Its buffer goes back when news are
// wanted, and comes again with them; until then it stays in the ring.
func (d *Device) serveStats(q *virtio.Queue) error {
	for {
		c, ok, err := q.Pop()
		if !ok || err != nil {
			return err
		}
		d.read(c.Readable)
		d.mu.Lock()
		asked := d.asked
		d.asked = false
		if !asked { // these are the news
			close(d.answer)
			d.answer = make(chan struct{})
		}
		d.mu.Unlock()
		if !asked {
			return q.Unpop(c)
		}
		if err := q.Push(c, 0); err != nil {
			return err
		}
	}
}

func (d *Device) read(v memory.Vec) {
	var b [maxStats]byte
	n := v.CopyOut(b[:])
	for s := b[:n]; len(s) >= statLen; s = s[statLen:] {
		if g := d.metrics.gauge(binary.LittleEndian.Uint16(s)); g != nil {
			g.Store(binary.LittleEndian.Uint64(s[2:]))
		}
	}
}

// Refresh asks the guest for its statistics and returns when they are there, or
// ctx ends. It returns at once when no driver gives any.
func (d *Device) Refresh(ctx context.Context) {
	d.mu.Lock()
	env, answer := d.env, d.answer
	if env == nil || !env.Features.Has(featStats) {
		d.mu.Unlock()
		return
	}
	d.asked = true
	d.mu.Unlock()
	env.Kick(queueStats)
	select {
	case <-answer:
	case <-ctx.Done():
	}
}
