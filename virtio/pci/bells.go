package pci

import (
	"errors"
	"log/slog"
	"sync"

	"github.com/hvctl/hvctl/virtio"
)

// bells keeps one ioeventfd per queue at its place in the BAR while the device
// is live and the BAR is mapped.
type bells struct {
	to   virtio.Doorbells
	core *virtio.Core
	log  *slog.Logger

	mu     sync.Mutex // guards what follows; a leaf
	active bool       // the driver has set DRIVER_OK
	mapped bool
	base   uint64 // of the BAR
	in     []bool // by queue: registered at base
}

// activate is called when the device becomes live and when it no longer is.
// Where a doorbell cannot be had, the write exits to us instead.
func (b *bells) activate(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.active = on
	b.remove()
	if b.active && b.mapped {
		if err := b.add(); err != nil {
			b.log.Warn("doorbells not registered", "err", err)
		}
	}
}

// moved follows the BAR. On error the doorbells are where they were.
func (b *bells) moved(base uint64, mapped bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	oldBase, oldMapped := b.base, b.mapped
	b.remove()
	b.base, b.mapped = base, mapped
	if !b.active || !b.mapped {
		return nil
	}
	err := b.add()
	if err == nil {
		return nil
	}
	b.base, b.mapped = oldBase, oldMapped
	if b.mapped {
		err = errors.Join(err, b.add())
	}
	return err
}

// add registers all doorbells, or none. mu is held.
func (b *bells) add() error {
	b.in = make([]bool, b.core.NumQueues())
	for i := range b.in {
		if err := b.to.Add(b.addr(i), 0, nil, b.core.Doorbell(i)); err != nil {
			b.remove()
			return err
		}
		b.in[i] = true
	}
	return nil
}

func (b *bells) remove() {
	for i, in := range b.in {
		if !in {
			continue
		}
		if err := b.to.Remove(b.addr(i), 0, nil, b.core.Doorbell(i)); err != nil {
			b.log.Warn("doorbell not removed", "queue", i, "err", err)
		}
	}
	b.in = nil
}

func (b *bells) addr(queue int) uint64 {
	return b.base + offNotify + uint64(multiplier*queue)
}
