package migrate

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/sparse"
	"github.com/hvctl/hvctl/migrate/wire"
)

// data receives one stream's memory until the connection ends.
func (s *session) data(c *wire.Conn, h hello) error {
	stream := h.Stream
	s.mu.Lock()
	if stream >= len(s.streams) || s.ctl == nil || s.streams[stream] != nil || int(c.Channel()) != stream+1 {
		s.mu.Unlock()
		return refuse(codeStream, "stream %d is open already, or there is none", stream)
	}
	s.streams[stream] = c
	s.handlers.Add(1)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.streams[stream] = nil
		s.mu.Unlock()
		s.handlers.Done()
	}()
	if err := sendJSON(c, wire.Welcome, welcome{Version: h.version()}); err != nil {
		return err
	}
	runs := make([]wire.Run, 0, wire.MaxRuns)
	var unpacker wire.Unpacker
	for {
		t, p, err := c.Recv(0) // the control connection tells whether the source lives
		if err != nil {
			return err
		}
		if t == wire.Packed && h.version() >= 2 {
			if p, err = unpacker.Unpack(p); err != nil {
				return err
			}
			t = wire.Pages
		}
		switch t {
		case wire.Pages:
			if runs, err = s.apply(stream, p, runs[:0]); err != nil {
				return err
			}
			s.mu.Lock()
			s.applied[stream]++
			s.mu.Unlock()
		case wire.Round:
			cur := wire.NewCursor(p)
			round := cur.Uint32("round")
			if cur.Done(); cur.Err() != nil {
				return fmt.Errorf("ROUND: %w", cur.Err())
			}
			s.mu.Lock()
			s.rounds[stream] = round
			s.mu.Unlock()
			s.progress()
		default:
			return fmt.Errorf("%w: %v on a data connection", ErrProtocol, t)
		}
	}
}

// apply writes the pages of a frame, whose checksum was right, to RAM.
func (s *session) apply(stream int, payload []byte, runs []wire.Run) ([]wire.Run, error) {
	runs, data, err := wire.DecodePages(payload, s.pages, runs)
	if err != nil {
		return nil, err
	}
	s.sealing.RLock()
	defer s.sealing.RUnlock()
	if s.sealed {
		return nil, fmt.Errorf("%w: PAGES after the last round", ErrProtocol)
	}
	for _, r := range runs {
		if n := s.stripe(r); n%uint64(len(s.applied)) != uint64(stream) {
			return nil, fmt.Errorf("%w: a page of stripe %d on stream %d", ErrProtocol, n, stream)
		}
		n := 0
		if !r.Zero {
			n = int(r.Count) * pageSize
		}
		if err := s.put(r, data[:n]); err != nil {
			return nil, err
		}
		data = data[n:]
	}
	return runs, nil
}

// put gives a run of pages its content; none is zeroes.
func (s *session) put(r wire.Run, data []byte) error {
	have := s.have[r.Region]
	at, size := r.Page*pageSize, uint64(r.Count)*pageSize
	fresh := true // no page of the run exists
	for p := r.Page; p < r.Page+uint64(r.Count); p++ {
		fresh = fresh && have[p/64]>>(p%64)&1 == 0
	}
	if r.Zero && fresh {
		return nil
	}
	s.enlarge(r)
	sparse.SetRun(have, r.Page, r.Page+uint64(r.Count))
	if int(r.Region) >= len(s.regions) {
		return s.volumes[int(r.Region)-len(s.regions)].put(at, size, data)
	}
	g := s.regions[r.Region]
	if r.Zero {
		s.zero(g, at, size)
		return nil
	}
	if fresh && s.fd >= 0 && !s.isHuge(r) {
		// Pages that do not exist yet cost two thirds when the kernel makes and fills
		// them in one go, instead of our touching them one by one.
		_, err := unix.Pwrite(s.fd, data, int64(g.Offset+at))
		if !errors.Is(err, unix.EINVAL) { // huge pages know no write
			return os.NewSyscallError("pwrite", err)
		}
	}
	copy(g.Bytes[at:at+size], data)
	return nil
}

// enlarge puts a huge page behind the stripe of r, the first run of a dense one,
// if that can be done here.
func (s *session) enlarge(r wire.Run) {
	d, ok := s.dest.(HugePager)
	if !ok || !r.Dense || s.postcopy || int(r.Region) >= len(s.regions) || s.small.Load() || s.isHuge(r) {
		return
	}
	first := r.Page &^ (wire.StripePages - 1)
	from, to := first/64, (first+wire.StripePages)/64
	if have := s.have[r.Region]; to > uint64(len(have)) || count(have[from:to]) > 0 {
		return
	}
	err := d.MakeHuge(s.regions[r.Region].GPA + memory.GPA(first*pageSize))
	if err != nil {
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, memory.ErrLayout) { // the next will not succeed either
			s.small.Store(true)
			s.r.o.Log.Info("no huge pages for the RAM that comes", "err", err)
		}
		return
	}
	s.huge[s.stripe(r)] = true
}

// stripe returns the number of the stripe of r, counted through all areas.
func (s *session) stripe(r wire.Run) uint64 { return s.stripes[r.Region] + r.Page/wire.StripePages }

func (s *session) isHuge(r wire.Run) bool { return s.huge[s.stripe(r)] }

// put writes size bytes at offset at, zeroes when data is nil. What is beyond
// the end of the disk is left out.
func (v Volume) put(at, size uint64, data []byte) error {
	size = min(size, v.Size-at)
	if len(data) > 0 {
		_, err := v.File.WriteAt(data[:size], int64(at))
		return err
	}
	err := unix.Fallocate(int(v.File.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at), int64(size))
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = v.File.WriteAt(make([]byte, size), int64(at))
	}
	return err
}

// zero makes pages zero; a whole stripe is given back to the host.
func (s *session) zero(g memory.Region, at, size uint64) {
	if d, ok := s.dest.(Discarder); ok && size == wire.StripePages*pageSize {
		if d.Discard(g.GPA+memory.GPA(at), size) == nil {
			return
		}
	}
	clear(g.Bytes[at : at+size])
}

func (s *session) seal() {
	s.sealing.Lock()
	s.sealed = true
	s.sealing.Unlock()
}
