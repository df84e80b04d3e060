package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
)

// Entry is one piece of output.
type Entry struct {
	Time   time.Time `json:"t"`
	Stream string    `json:"s"`
	Text   string    `json:"d,omitempty"`
	Bytes  []byte    `json:"b,omitempty"`
}

// Data is the piece as it was written.
func (e Entry) Data() []byte {
	if e.Bytes != nil {
		return e.Bytes
	}
	return []byte(e.Text)
}

// ReadOptions says how to read a log.
type ReadOptions struct {
	// Follow goes on, without polling, until the owner ends, the instance is
	// removed, or the context is done.
	Follow bool
	// CaughtUp, if not nil, is called once, when all that was there has been
	// read; before ReadLog returns or goes on.
	CaughtUp func() error
}

// ReadLog calls fn with each piece of output there is, oldest first.
func (i *Instance) ReadLog(ctx context.Context, o ReadOptions, fn func(Entry) error) error {
	follow, caughtUp := o.Follow, o.CaughtUp
	var watch *watcher
	if follow {
		var err error
		if watch, err = newWatcher(i.dir); err != nil {
			return err
		}
		defer watch.close()
		defer context.AfterFunc(ctx, watch.interrupt)()
	}
	r := &lineReader{base: filepath.Join(i.dir, LogFile), fn: func(line []byte) error {
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return fn(e)
	}}
	defer r.close()
	if err := r.openOldest(); err != nil {
		return err
	}
	for {
		// Asked before the files are read: what an owner that is gone wrote
		// is all there by then.
		living := false
		if follow {
			st, err := i.State()
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			living = err == nil && st.Status != workload.Exited && st.Status != workload.Dead
		}
		if err := r.drain(); err != nil {
			return err
		}
		if caughtUp != nil {
			if err := caughtUp(); err != nil {
				return err
			}
			caughtUp = nil
		}
		if !living {
			return nil // half a line from an owner that was killed is dropped
		}
		if err := watch.wait(); err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}
