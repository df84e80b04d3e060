package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/bench/migrate/beat"
	"github.com/hvctl/hvctl/migrate/sparse"
)

// ram is the memory of a guest, seen from outside its VMM: reading the file makes
// no pages.
type ram struct{ *os.File }

// openRAM finds the memory file, of size bytes, of process pid.
func openRAM(pid int, size int64) (ram, error) {
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return ram{}, err
	}
	for _, fd := range fds {
		if name, err := os.Readlink(fd); err != nil || !strings.HasPrefix(name, "/memfd:") {
			continue
		}
		f, err := os.Open(fd)
		if err != nil {
			return ram{}, err
		}
		if st, err := f.Stat(); err == nil && st.Size() == size {
			return ram{f}, nil
		}
		_ = f.Close()
	}
	return ram{}, fmt.Errorf("process %d has no memory file of %d bytes: %w", pid, size, os.ErrNotExist)
}

// beat reads the page at offset at.
func (r ram) beat(at int64) (beat.Beat, bool) {
	var b [beat.Head]byte
	if _, err := r.ReadAt(b[:], at); err != nil {
		return beat.Beat{}, false
	}
	return beat.Parse(b[:])
}

// find waits until a guest that is set up lives in the memory, and returns where
// its page is.
func (r ram) find(ctx context.Context, size int64) (int64, error) {
	for {
		data, err := sparse.Data(int(r.Fd()), 0, uint64(size))
		if err != nil {
			return 0, err
		}
		for p := range size / beat.Size {
			if data[p/64]>>(p%64)&1 == 0 {
				continue
			}
			if b, ok := r.beat(p * beat.Size); ok && b.Ready == 1 {
				return p * beat.Size, nil
			}
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return 0, fmt.Errorf("the guest did not get ready: %w", err)
		}
	}
}

// filled returns how many bytes of the memory are in pages with content.
func (r ram) filled(size int64) (n uint64, err error) {
	data, err := sparse.Data(int(r.Fd()), 0, uint64(size))
	if err != nil {
		return 0, err
	}
	var page [beat.Size]byte
	for p := range size / beat.Size {
		if data[p/64]>>(p%64)&1 == 0 {
			continue
		}
		if _, err := r.ReadAt(page[:], p*beat.Size); err != nil {
			return 0, err
		}
		if !sparse.IsZero(page[:]) {
			n += beat.Size
		}
	}
	return n, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// seen is a count and when it was first seen.
type seen struct {
	count uint64
	at    time.Duration // since the watch began
}

// watch looks at the guest's page on both sides until it has lived at the
// destination for a while.
type watch struct {
	begin    time.Time
	from, to []seen
	gap      uint64 // of the guest's own clock
}

// poll is the time between two looks; it bounds what the watch can tell apart.
const poll = 500 * time.Microsecond

// maxSeen bounds what is kept of one side: at a look each poll, ten minutes.
const maxSeen = 1_200_000

// follow watches until done is closed and the guest has gone on at the
// destination, or ctx ends.
func (w *watch) follow(ctx context.Context, from ram, open func() (ram, error), at int64, done <-chan struct{}) error {
	to, err := open()
	defer func() { _ = to.Close() }() // closing none is harmless
	tick := time.NewTicker(poll)
	defer tick.Stop()
	over := false
	for n := 0; ; n++ {
		now := time.Since(w.begin)
		if b, ok := from.beat(at); ok {
			w.from = note(w.from, seen{b.Count, now})
		}
		if err != nil && n%20 == 0 { // the destination makes its memory when it is offered a machine
			if to, err = open(); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		if err == nil {
			if b, ok := to.beat(at); ok {
				w.to, w.gap = note(w.to, seen{b.Count, now}), b.Gap
			}
		}
		if over && w.lived() {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-done:
			over, done = true, nil
		case <-tick.C:
		}
	}
}

func note(s []seen, x seen) []seen {
	if len(s) > 0 && s[len(s)-1].count == x.count || len(s) == maxSeen {
		return s
	}
	return append(s, x)
}

// lived reports whether the guest has ticked a few times at the destination: its
// own account of the gap is written with its second tick.
func (w *watch) lived() bool {
	if len(w.from) == 0 || len(w.to) == 0 {
		return false
	}
	return w.to[len(w.to)-1].count > w.from[len(w.from)-1].count+4
}

// standstill returns how long nobody saw the guest live: from its last tick at
// the source to its first own at the destination. Ticks that came there as
// memory are none of its own.
func (w *watch) standstill() (time.Duration, bool) {
	if len(w.from) == 0 {
		return 0, false
	}
	last := w.from[len(w.from)-1]
	for _, s := range w.to {
		if s.count > last.count {
			return s.at - last.at, true
		}
	}
	return 0, false
}
