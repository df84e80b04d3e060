package migrate

import (
	"context"
	"math/bits"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/sparse"
	"github.com/hvctl/hvctl/migrate/wire"
)

const pageSize = memory.PageSize

// stripe is the memory that always uses one stream: 2 MiB of a region, whole
// words of its bitmaps.
type stripe struct {
	region int
	page   uint64 // the first
	pages  uint64
}

// stripesOf cuts the regions; stripe k of the result uses stream k mod N.
func stripesOf(regions []memory.Region) (s []stripe) {
	for i, r := range regions {
		n := r.Size / pageSize
		for p := uint64(0); p < n; p += wire.StripePages {
			s = append(s, stripe{i, p, min(wire.StripePages, n-p)})
		}
	}
	return s
}

// ram is the source's account of its memory. While streams send, each owns the
// words of its stripes; between rounds the sender owns all.
type ram struct {
	src     Source
	regions []memory.Region
	stripes []stripe
	todo    [][]uint64 // pages that the destination must get
	sent    [][]uint64 // pages that the destination may have with other bytes than zeroes
	scratch []uint64
	holes   uint64 // pages left out from the start
}

// newRAM marks everything but holes as to be sent. The dirty log runs already,
// so that a hole filled from now on is seen.
func newRAM(src Source) (*ram, error) {
	m := &ram{src: src, regions: src.Regions()}
	m.stripes = stripesOf(m.regions)
	fd := -1
	if s, ok := src.(SparseSource); ok {
		fd = s.MemoryFD()
	}
	for _, r := range m.regions {
		todo := sparse.Fill(r.Size / pageSize)
		if fd >= 0 {
			var err error
			if todo, err = sparse.Data(fd, r.Offset, r.Size); err != nil {
				return nil, err
			}
		}
		m.holes += r.Size/pageSize - count(todo)
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
	for i, r := range m.regions {
		n := DirtyWords(r)
		if cap(m.scratch) < n {
			m.scratch = make([]uint64, n)
		}
		words := m.scratch[:n]
		if err := m.src.FetchDirty(i, words); err != nil {
			return 0, err
		}
		if tail := r.Size / pageSize % 64; tail != 0 {
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
	frames  uint64 // of pages, sent since the session began
	flights []flight
	runs    []wire.Run
	data    int // pages in buf
	buf     []byte
	stats   RoundReport
}

// dataStart is where page bytes begin in a stream's buffer: before them is room
// for the longest table and the header.
var dataStart = wire.HeaderSize + wire.TableSize(wire.MaxRuns)

func newStream(i int) *stream {
	return &stream{index: i, buf: make([]byte, dataStart+wire.MaxDataPages*pageSize)}
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
	defer func() {
		if err != nil {
			m.restore(s.runs)
			s.runs, s.data = s.runs[:0], 0
		}
	}()
	for k := s.index; k < len(m.stripes); k += streams {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := s.stripe(ctx, m, m.stripes[k], c, l); err != nil {
			return err
		}
	}
	return s.flush(ctx, c, l)
}

func (s *stream) stripe(ctx context.Context, m *ram, st stripe, c *wire.Conn, l *limiter) error {
	todo, sent := m.todo[st.region], m.sent[st.region]
	ram := m.regions[st.region].Bytes
	for w := st.page / 64; w < (st.page+st.pages+63)/64; w++ {
		for todo[w] != 0 {
			bit := todo[w] & -todo[w]
			p := w*64 + uint64(bits.TrailingZeros64(bit))
			page := ram[p*pageSize : (p+1)*pageSize]
			zero := sparse.IsZero(page)
			if zero && sent[w]&bit == 0 {
				s.stats.Skipped++
				todo[w] &^= bit
				continue
			}
			if !s.room(uint16(st.region), p, zero) {
				if err := s.flush(ctx, c, l); err != nil {
					return err
				}
			}
			s.add(uint16(st.region), p, zero, page)
			todo[w] &^= bit
			if zero {
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

// extends reports whether page p goes on where the last run ends.
func (s *stream) extends(region uint16, p uint64, zero bool) bool {
	if len(s.runs) == 0 {
		return false
	}
	r := s.runs[len(s.runs)-1]
	return r.Region == region && r.Zero == zero && r.Page+uint64(r.Count) == p && p%wire.StripePages != 0
}

// room reports whether the frame being made can take the page.
func (s *stream) room(region uint16, p uint64, zero bool) bool {
	return (zero || s.data < wire.MaxDataPages) && (len(s.runs) < wire.MaxRuns || s.extends(region, p, zero))
}

func (s *stream) add(region uint16, p uint64, zero bool, page []byte) {
	if s.extends(region, p, zero) {
		s.runs[len(s.runs)-1].Count++
	} else {
		s.runs = append(s.runs, wire.Run{Region: region, Page: p, Count: 1, Zero: zero})
	}
	if zero {
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
	frame := s.buf[start : dataStart+s.data*pageSize]
	wire.AppendRuns(frame[wire.HeaderSize:wire.HeaderSize], s.runs)
	if err := l.wait(ctx, len(frame)); err != nil {
		return err
	}
	s.flights = append(s.flights, flight{s.frames, append([]wire.Run(nil), s.runs...)})
	s.frames++
	s.runs, s.data = s.runs[:0], 0
	s.stats.Bytes += uint64(len(frame))
	return c.SendInPlace(wire.Pages, frame)
}
