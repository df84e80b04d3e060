package net

import (
	"context"
	"errors"
)

// errLost means that the backend is gone for good.
var errLost = errors.New("the network backend is gone")

// Link reports whether the cable is plugged in.
func (d *Device) Link() bool { return d.up.Load() }

// SetLink plugs the cable in or pulls it, and tells the driver. While it is out,
// frames either way are dropped, or with vhost those out wait in the ring. On error
// it is out. A link whose host's end is gone cannot be plugged in.
func (d *Device) SetLink(up bool) error {
	d.plugging.Lock()
	defer d.plugging.Unlock()
	if up && d.gone.Load() {
		return errLost
	}
	was := d.up.Swap(up)
	var err error
	for i, p := range d.kernel {
		err = errors.Join(err, p.plug(up, d.o.Backends[i]))
	}
	if err != nil && up {
		d.up.Store(false)
		for i, p := range d.kernel {
			err = errors.Join(err, p.plug(false, d.o.Backends[i]))
		}
	}
	if d.up.Load() != was {
		d.configChanged()
	}
	return err
}

// Gone pulls the cable for good, for who has seen that the host's end of the link is
// no more. With vhost this process does not see it by itself.
func (d *Device) Gone() {
	d.gone.Store(true)
	d.mu.Lock()
	env := d.env
	d.mu.Unlock()
	if d.up.Load() && env != nil {
		env.Log.Warn("network link is down", "err", errLost)
	}
	_ = d.SetLink(false) // the kernel's end has nothing to let go of
}

// lost is Gone for a receiver whose backend says so. The guest goes on without a
// network.
func (d *Device) lost(ctx context.Context) {
	if ctx.Err() == nil {
		d.Gone()
	}
	<-ctx.Done()
}

// discard takes what waits in b, and loses it.
func discard(b Backend) {
	ctx, cancel := context.WithCancel(context.Background())
	_ = b.Receive(ctx, func(fr Frames) bool { // a lost backend shows when it is read
		into := [][]byte{make([]byte, minFrame)} // the rest of each is lost, as it should
		for range 4 * queueSize {
			if n, err := fr.Readv(into); err != nil || n == 0 {
				break
			}
		}
		return true
	})
	cancel()
	if f, ok := b.(*file); ok {
		_ = f.unwatch() // as it was
	}
}
