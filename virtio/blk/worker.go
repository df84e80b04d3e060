package blk

import (
	"errors"
	"fmt"
)

// worker is what one queue's goroutine works with.
type worker struct {
	d      *Device
	bufs   [][]byte
	segs   []segment
	vec    vector
	pacer  pacer
	flight *flight // nil with EnginePlain
}

// makeWorkers makes one for each queue, and falls back to EnginePlain where the
// engine was not asked for by name.
func (d *Device) makeWorkers(o Options) error {
	for range o.Queues {
		d.workers = append(d.workers, &worker{d: d})
	}
	if o.Engine == EnginePlain {
		return nil
	}
	for _, w := range d.workers {
		var err error
		if w.flight, err = newFlight(d.im); err == nil {
			continue
		}
		for _, w := range d.workers {
			err = errors.Join(err, w.close())
			w.flight = nil
		}
		if o.Engine == "" {
			d.log.Warn("disk goes on with the plain engine", "path", o.Path, "err", err)
			return nil
		}
		return fmt.Errorf("disk %s: %w; use engine=plain", o.Path, err)
	}
	return nil
}

func (w *worker) close() error {
	if w.flight == nil {
		return nil
	}
	return w.flight.ring.Close()
}
