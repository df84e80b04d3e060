package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/sparse"
	"github.com/hvctl/hvctl/migrate/wire"
)

// Content is what Write stores. The machine it belongs to is paused, or see Live.
type Content struct {
	Regions []memory.Region
	// MemoryFD is the memfd in which Region.Offset counts, so that its holes can
	// be skipped; -1 when the RAM is not a shared mapping of a file. (The RAM is
	// never a file at descriptor 0.)
	MemoryFD int
	Sections []state.Section
	// Description is JSON that says how to build the machine; it is kept as is.
	Description json.RawMessage
	// Base makes the snapshot a diff over the snapshot of that identity, of a
	// machine with the same regions. Dirty then has, per region, the bitmap of
	// the pages that changed since (bit n of word w is page 64*w+n).
	Base  *Ref
	Dirty [][]uint64
	// Live lets the machine run while most of its RAM is copied. Sections is then
	// what Live.Stop returns, and a diff has its pages besides Dirty.
	Live *Live
}

// Options tunes Write, ReadInto, Verify and Merge. The zero value is good.
type Options struct {
	// Workers is how many goroutines copy; 0 means one per processor, at most 4.
	Workers int
}

func (o Options) workers() int {
	if o.Workers > 0 {
		return o.Workers
	}
	return min(4, runtime.GOMAXPROCS(0))
}

// Report says what Write or Merge did.
type Report struct {
	ID          Ref           `json:"id"`
	StoredPages uint64        `json:"stored_pages"`
	ZeroPages   uint64        `json:"zero_pages"` // looked at and found zero
	HolePages   uint64        `json:"hole_pages"` // not looked at: hole or, in a diff, unchanged
	FileBytes   uint64        `json:"file_bytes"` // length; holes take no room
	Memory      time.Duration `json:"memory_ns"`  // copying RAM
	Total       time.Duration `json:"total_ns"`   // until it is on disk
}

// Write makes the snapshot file path, which must not exist: after a crash, it
// either does not exist or is complete. Errors name what could not be done;
// nothing is left behind then.
func Write(ctx context.Context, path string, c Content, o Options) (Report, error) {
	regions, end, err := placeOf(c.Regions)
	if err != nil {
		return Report{}, fmt.Errorf("snapshot %s: %w", path, err)
	}
	x := &index{regions: regions, description: c.Description, sections: c.Sections}
	src := &ramSource{ram: c.Regions}
	h := header{version: Version, indexOff: end}
	if c.Base != nil {
		h.diff, h.base, src.wanted = true, *c.Base, c.Dirty
		if err := checkDirty(regions, c.Dirty); err != nil {
			return Report{}, fmt.Errorf("snapshot %s: %w", path, err)
		}
	} else if src.wanted, err = wantedOf(c); err != nil {
		return Report{}, fmt.Errorf("snapshot %s: %w", path, err)
	}
	var finish func(context.Context, *writer) error
	if c.Live != nil {
		finish = func(ctx context.Context, w *writer) error { return w.live(ctx, c.Live, src, o.workers()) }
	}
	r, err := write(ctx, path, h, x, src, finish, o)
	if err != nil {
		return Report{}, fmt.Errorf("snapshot %s: %w", path, err)
	}
	return r, nil
}

// wantedOf returns the pages that a full snapshot has to look at.
func wantedOf(c Content) (wanted [][]uint64, err error) {
	for _, r := range c.Regions {
		w := sparse.Fill(r.Size / pageSize)
		if c.MemoryFD > 0 {
			if w, err = sparse.Data(c.MemoryFD, r.Offset, r.Size); err != nil {
				return nil, err
			}
		}
		wanted = append(wanted, w)
	}
	return wanted, nil
}

func checkDirty(regions []Region, dirty [][]uint64) error {
	if len(dirty) != len(regions) {
		return fmt.Errorf("%d bitmaps of changed pages for %d regions", len(dirty), len(regions))
	}
	for i, r := range regions {
		if uint64(len(dirty[i])) != r.words() {
			return fmt.Errorf("the bitmap of region %v has %d words, want %d", r.GPA, len(dirty[i]), r.words())
		}
		if n := r.Size / pageSize % 64; n != 0 && dirty[i][len(dirty[i])-1]>>n != 0 {
			return fmt.Errorf("the bitmap of region %v has pages beyond its end", r.GPA)
		}
	}
	return nil
}

// source gives the memory to be written, chunk by chunk, to several callers at
// once. chunk returns the bytes of chunk n and which of its pages count; it
// may use buf, chunkSize bytes, for them.
type source interface {
	chunk(region int, n uint64, buf []byte) (data []byte, wanted pages, err error)
}

// ramSource is the RAM of a paused machine.
type ramSource struct {
	ram    []memory.Region
	wanted [][]uint64
}

func (s *ramSource) chunk(region int, n uint64, _ []byte) ([]byte, pages, error) {
	b := s.ram[region].Bytes
	return b[n*chunkSize : min((n+1)*chunkSize, uint64(len(b)))], of(s.wanted[region], n), nil
}

// write makes the file: memory, which finish (nil: nothing) completes, then the
// index, then the header, then its name.
func write(ctx context.Context, path string, h header, x *index, src source, finish func(context.Context, *writer) error, o Options) (r Report, err error) {
	begin := time.Now()
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.partial")
	if err != nil {
		return r, err
	}
	defer func() {
		_ = os.Remove(f.Name())
		err = errors.Join(err, f.Close())
	}()
	w := &writer{f: f, x: x, diff: h.diff, src: src}
	if err := w.memory(ctx, o.workers()); err != nil {
		return r, err
	}
	if finish != nil {
		if err := finish(ctx, w); err != nil {
			return r, err
		}
	}
	r = Report{StoredPages: w.stored.Load(), ZeroPages: w.zero.Load(), Memory: time.Since(begin)}
	for _, g := range x.regions {
		r.HolePages += g.Size / pageSize
	}
	r.HolePages -= r.StoredPages + r.ZeroPages
	b, err := x.encode()
	if err != nil {
		return r, err
	}
	h.indexLen, h.size = uint64(len(b)), h.indexOff+uint64(len(b))
	if _, err := f.WriteAt(b, int64(h.indexOff)); err != nil {
		return r, err
	}
	if _, err := f.WriteAt(h.encode(b), 0); err != nil {
		return r, err
	}
	r.ID, r.FileBytes = h.id, h.size
	if err := publish(f, path); err != nil {
		return r, err
	}
	r.Total = time.Since(begin)
	return r, nil
}

// publish makes f durable and gives it its name, unless the name is taken.
func publish(f *os.File, path string) error {
	if err := f.Chmod(0o400); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // unlike rename, never over another file
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// writer copies memory into the file and fills the tables.
type writer struct {
	f            *os.File
	x            *index
	diff         bool
	src          source
	stored, zero atomic.Uint64 // pages
}

func (w *writer) memory(ctx context.Context, workers int) error {
	for _, r := range w.x.regions {
		w.x.tables = append(w.x.tables, newTable(r, w.diff))
	}
	return eachStripe(ctx, w.x.regions, workers, func(region int, n uint64, buf []byte) error {
		return w.chunk(region, n, buf)
	})
}

// chunk writes the pages of one chunk that are wanted and not zero.
func (w *writer) chunk(region int, n uint64, buf []byte) error {
	data, wanted, err := w.src.chunk(region, n, buf)
	if err != nil || wanted == 0 {
		return err
	}
	var keep, zero pages
	for i := range chunkPages {
		if wanted>>i&1 == 0 {
			continue
		}
		if sparse.IsZero(data[i*pageSize : (i+1)*pageSize]) {
			zero |= 1 << i
			w.zero.Add(1)
		} else {
			keep |= 1 << i
			w.stored.Add(1)
		}
	}
	t, off := &w.x.tables[region], w.x.regions[region].Offset+n*chunkSize
	for from, to := range keep.runs {
		run := data[from*pageSize : to*pageSize]
		t.crc[n] = wire.CRC(t.crc[n], run)
		if _, err := w.f.WriteAt(run, int64(off)+int64(from)*pageSize); err != nil {
			return err
		}
	}
	set(t.stored, n, keep)
	if w.diff {
		set(t.zero, n, zero)
	}
	return nil
}

// stripeChunks is how many neighbouring chunks one worker takes at a time:
// 2 MiB, and whole words of the bitmaps, so that those have one writer each.
const stripeChunks = 32

// eachStripe calls f for every chunk of all regions, from several goroutines,
// each with a buffer of its own, until the first error or the end of ctx.
func eachStripe(ctx context.Context, regions []Region, workers int, f func(region int, chunk uint64, buf []byte) error) error {
	type stripe struct {
		region int
		from   uint64
	}
	work := make(chan stripe)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		for i, r := range regions {
			for n := uint64(0); n < r.chunks(); n += stripeChunks {
				select {
				case work <- stripe{i, n}:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			buf := make([]byte, chunkSize)
			for s := range work {
				for n := s.from; n < min(s.from+stripeChunks, regions[s.region].chunks()); n++ {
					if err := f(s.region, n, buf); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return g.Wait()
}
