package migrate

import (
	"context"
	"errors"
	"io"
	"math/bits"
	"os"
	"time"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/sparse"
	"github.com/hvctl/hvctl/migrate/wire"
)

const pageSize = memory.PageSize

// area is one region of RAM or one disk: the first areas are the regions, in
// order, then come the disks.
type area struct {
	pages uint64
	ram   []byte   // of a region
	file  *os.File // of a disk
	fetch func(bitmap []uint64) error
	data  func() ([]uint64, error) // the pages that are no holes
}

// page returns the bytes of page p; those of a disk are read into buf.
func (a *area) page(p uint64, buf []byte) ([]byte, error) {
	if a.ram != nil {
		return a.ram[p*pageSize : (p+1)*pageSize], nil
	}
	n, err := a.file.ReadAt(buf, int64(p*pageSize))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	clear(buf[n:]) // the last page of a disk may be short
	return buf, nil
}

// denseShare is how many of a stripe's pages have to come for the destination to
// put a huge page behind them: it may then have an eighth more RAM in use than
// the source.
const denseShare = wire.StripePages * 7 / 8

// dense reports whether nearly all of a stripe of RAM is about to be sent for
// the first time.
func (a *area) dense(st stripe, todo, sent []uint64) bool {
	if a.ram == nil || st.pages != wire.StripePages {
		return false
	}
	from, to := st.page/64, (st.page+st.pages)/64
	if count(todo[from:to]) < denseShare || count(sent[from:to]) > 0 {
		return false
	}
	zero := 0
	for p := st.page; p < st.page+st.pages; p++ {
		if sparse.IsZero(a.ram[p*pageSize : (p+1)*pageSize]) {
			if zero++; zero > wire.StripePages-denseShare {
				return false
			}
		}
	}
	return true
}

// areasOf lists what src has to send.
func areasOf(src Source) (areas []area) {
	fd := -1
	if s, ok := src.(SparseSource); ok {
		fd = s.MemoryFD()
	}
	for i, r := range src.Regions() {
		a := area{pages: r.Size / pageSize, ram: r.Bytes}
		a.fetch = func(b []uint64) error { return src.FetchDirty(i, b) }
		a.data = func() ([]uint64, error) {
			if fd < 0 {
				return sparse.Fill(a.pages), nil
			}
			return sparse.Data(fd, r.Offset, r.Size)
		}
		areas = append(areas, a)
	}
	v, ok := src.(VolumeSource)
	if !ok {
		return areas
	}
	for i, d := range v.Volumes() {
		a := area{pages: d.pages(), file: d.File}
		a.fetch = func(b []uint64) error { return v.FetchDirtyVolume(i, b) }
		a.data = func() ([]uint64, error) { return sparse.Data(int(d.File.Fd()), 0, a.pages*pageSize) }
		areas = append(areas, a)
	}
	return areas
}

// pages returns the size of a disk in pages; the last may be short.
func (v Volume) pages() uint64 { return (v.Size + pageSize - 1) / pageSize }

// stripe is what always uses one stream: 2 MiB of an area, whole words of its
// bitmaps.
type stripe struct {
	area  int
	page  uint64 // the first
	pages uint64
}

// ram is the source's account of its memory and disks. While streams send, each
// owns the words of its stripes; between rounds the sender owns all.
type ram struct {
	areas   []area
	stripes []stripe   // stripe k uses stream k mod N
	todo    [][]uint64 // pages that the destination must get
	sent    [][]uint64 // pages that the destination may have with other bytes than zeroes
	held    bool       // RAM is not sent any more: what is left of it follows later
	scratch []uint64
	holes   uint64 // pages left out from the start
}

// newRAM marks everything but holes as to be sent. The dirty log runs already,
// so that a hole filled from now on is seen.
func newRAM(src Source) (*ram, error) {
	m := &ram{areas: areasOf(src)}
	for i, a := range m.areas {
		for p := uint64(0); p < a.pages; p += wire.StripePages {
			m.stripes = append(m.stripes, stripe{i, p, min(wire.StripePages, a.pages-p)})
		}
		todo, err := a.data()
		if err != nil {
			return nil, err
		}
		m.holes += a.pages - count(todo)
		m.todo = append(m.todo, todo)
		m.sent = append(m.sent, make([]uint64, len(todo)))
	}
	return m, nil
}

func count(bitmap []uint64) (n uint64) {
	for _, w := range bitmap {
		n += uint64(bits.OnesCount64(w))
	}
	return n
}

// fetch adds what the dirty log has to what must be sent, and returns how many
// pages that is now.
func (m *ram) fetch() (todo uint64, err error) {
	for i, a := range m.areas {
		n := len(m.todo[i])
		if cap(m.scratch) < n {
			m.scratch = make([]uint64, n)
		}
		words := m.scratch[:n]
		if err := a.fetch(words); err != nil {
			return 0, err
		}
		if tail := a.pages % 64; tail != 0 {
			words[n-1] &= 1<<tail - 1
		}
		for w, v := range words {
			m.todo[i][w] |= v
		}
		todo += count(m.todo[i])
	}
	return todo, nil
}

// restore puts pages back that were taken but may not have arrived.
func (m *ram) restore(runs []wire.Run) (pages uint64) {
	for _, r := range runs {
		from, to := r.Page, r.Page+uint64(r.Count)
		sparse.SetRun(m.todo[r.Region], from, to)
		// A page whose zeroes were lost must be sent as zero again.
		sparse.SetRun(m.sent[r.Region], from, to)
		pages += uint64(r.Count)
	}
	return pages
}

// flight is a frame that the destination has not confirmed.
type flight struct {
	n    uint64 // its number in the stream, over all connections of the session
	runs []wire.Run
}

// stream sends one share of the memory. One goroutine at a time uses it.
type stream struct {
	index   int
	version uint32 // of the protocol
	frames  uint64 // of pages, sent since the session began
	flights []flight
	runs    []wire.Run
	data    int // pages in buf
	buf     []byte
	page    [pageSize]byte // of a disk
	packer  wire.Packer
	packed  []byte // room for a frame; as long as its header
	gauge   gauge
	stats   RoundReport
}

// dataStart is where page bytes begin in a stream's buffer: before them is room
// for the longest table and the header.
var dataStart = wire.HeaderSize + wire.TableSize(wire.MaxRuns)

func newStream(i int, mode Compress) *stream {
	return &stream{index: i, gauge: newGauge(mode), buf: make([]byte, dataStart+wire.MaxDataPages*pageSize)}
}

// lost puts the pages of all frames from number applied on back into m; the
// frames' numbers are then free again.
func (s *stream) lost(m *ram, applied uint64) (pages uint64) {
	for _, f := range s.flights {
		if f.n >= applied {
			pages += m.restore(f.runs)
		}
	}
	s.flights = nil
	s.frames = applied
	return pages
}

// share sends the pages of the stream's stripes that are to be sent. When it
// fails, the pages of no frame are lost: they are in flights or in todo.
func (s *stream) share(ctx context.Context, m *ram, streams int, c *wire.Conn, l *limiter) (err error) {
	s.gauge.over(c)
	defer func() {
		s.gauge.pause()
		if err != nil {
			m.restore(s.runs)
			s.runs, s.data = s.runs[:0], 0
		}
	}()
	for k := s.index; k < len(m.stripes); k += streams {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if m.held && m.areas[m.stripes[k].area].ram != nil {
			continue
		}
		if err := s.stripe(ctx, m, m.stripes[k], c, l); err != nil {
			return err
		}
	}
	return s.flush(ctx, c, l)
}

func (s *stream) stripe(ctx context.Context, m *ram, st stripe, c *wire.Conn, l *limiter) error {
	todo, sent, from := m.todo[st.area], m.sent[st.area], &m.areas[st.area]
	run := wire.Run{Region: uint16(st.area), Dense: s.version >= 2 && from.dense(st, todo, sent)}
	for w := st.page / 64; w < (st.page+st.pages+63)/64; w++ {
		for todo[w] != 0 {
			bit := todo[w] & -todo[w]
			p := w*64 + uint64(bits.TrailingZeros64(bit))
			page, err := from.page(p, s.page[:])
			if err != nil {
				return err
			}
			run.Page, run.Zero = p, sparse.IsZero(page)
			if run.Zero && sent[w]&bit == 0 {
				s.stats.Skipped++
				todo[w] &^= bit
				continue
			}
			if !s.room(run) {
				if err := s.flush(ctx, c, l); err != nil {
					return err
				}
			}
			s.add(run, page)
			todo[w] &^= bit
			if run.Zero {
				sent[w] &^= bit
				continue
			}
			if sent[w]&bit != 0 {
				s.stats.Duplicate++
			}
			sent[w] |= bit
		}
	}
	return nil
}

// extends reports whether the first page of r goes on where the last run ends.
func (s *stream) extends(r wire.Run) bool {
	if len(s.runs) == 0 {
		return false
	}
	last := s.runs[len(s.runs)-1]
	return last.Region == r.Region && last.Zero == r.Zero && last.Page+uint64(last.Count) == r.Page && r.Page%wire.StripePages != 0
}

// room reports whether the frame being made can take the first page of r.
func (s *stream) room(r wire.Run) bool {
	return (r.Zero || s.data < wire.MaxDataPages) && (len(s.runs) < wire.MaxRuns || s.extends(r))
}

// add adds the first page of r to the frame being made.
func (s *stream) add(r wire.Run, page []byte) {
	if s.extends(r) {
		s.runs[len(s.runs)-1].Count++
	} else {
		r.Count = 1
		s.runs = append(s.runs, r)
	}
	if r.Zero {
		s.stats.Zero++
		return
	}
	// The guest may be writing to the page: what is summed and sent is this copy.
	copy(s.buf[dataStart+s.data*pageSize:], page)
	s.data++
	s.stats.Pages++
}

// flush sends the frame being made, if it has anything.
func (s *stream) flush(ctx context.Context, c *wire.Conn, l *limiter) error {
	if len(s.runs) == 0 {
		return nil
	}
	start := dataStart - wire.TableSize(len(s.runs)) - wire.HeaderSize
	raw := s.buf[start : dataStart+s.data*pageSize]
	wire.AppendRuns(raw[wire.HeaderSize:wire.HeaderSize], s.runs)
	typ, frame, err := s.pack(raw)
	if err != nil {
		return err
	}
	if err := l.wait(ctx, len(frame)); err != nil {
		return err
	}
	s.flights = append(s.flights, flight{s.frames, append([]wire.Run(nil), s.runs...)})
	s.frames++
	s.runs, s.data = s.runs[:0], 0
	s.stats.Bytes += uint64(len(frame))
	s.stats.Unpacked += uint64(len(raw))
	if err := c.SendInPlace(typ, frame); err != nil {
		return err
	}
	s.gauge.done(len(raw), len(frame), time.Now())
	return nil
}

// pack returns the frame to send instead of a frame of pages, which may be that
// frame itself.
func (s *stream) pack(raw []byte) (wire.Type, []byte, error) {
	if s.version < 2 || s.data == 0 {
		return wire.Pages, raw, nil
	}
	begin := time.Now()
	m := s.gauge.next(begin)
	if m == plain {
		return wire.Pages, raw, nil
	}
	if s.packed == nil {
		s.packed = make([]byte, wire.HeaderSize, wire.HeaderSize+wire.PackedRoom(len(s.buf)))
	}
	frame, err := s.packer.Pack(s.packed, m, raw[wire.HeaderSize:])
	if err != nil {
		return 0, nil, err
	}
	s.gauge.packed(m, len(raw), len(frame), time.Since(begin))
	if float64(len(frame)) > shrunk*float64(len(raw)) {
		return wire.Pages, raw, nil
	}
	return wire.Packed, frame, nil
}
