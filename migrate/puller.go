package migrate

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

// PullOptions says what a Puller gets, and from whom.
type PullOptions struct {
	Session string
	Epoch   uint32
	Peer    string     // of the session; nobody else is served
	Pages   []uint64   // sizes of the regions
	Missing [][]uint64 // bitmaps of what is to come; the Puller's own from now on
	// Fill gives pages that are missing their content; data is nil when they are
	// zero. One goroutine at a time calls it.
	Fill func(region int, page, n uint64, data []byte) error
	// Journal has what was decided about the session, for who asks meanwhile.
	Journal commit.Journal

	Keepalive time.Duration // between PINGs; 2 s
	Stall     time.Duration // longest wait for a page that was asked for, before the link counts as broken; 10 s
	Wait      time.Duration // longest time without a source; 10 min
	Log       *slog.Logger  // nil is silence
}

// Puller gets the pages that a guest lacks from the source that still has them. It
// takes the receiver's place at its address meanwhile. It is made to run in a
// process of its own, which touches none of that memory.
type Puller struct {
	o        PullOptions
	original [][]uint64
	done     chan struct{} // closed when err is final
	drained  chan struct{} // the source has closed its connection when all was there

	filling sync.Mutex // held while Fill runs

	mu    sync.Mutex // guards what follows
	left  uint64
	asked map[cursor]asking
	push  *wire.Conn
	fault *wire.Conn
	seen  time.Time // when there was a source last
	local uint64
	waits waits
	err   error
	over  bool
}

// asking is a page that somebody waits for.
type asking struct {
	since time.Time // somebody waits
	sent  time.Time // the source was asked last, or would have been
}

// NewPuller returns a Puller whose Serve does the work.
func NewPuller(o PullOptions) *Puller {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Keepalive, 2*time.Second)
	def(&o.Stall, 10*time.Second)
	def(&o.Wait, 10*time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Puller{o: o, done: make(chan struct{}), drained: make(chan struct{}, 1), asked: map[cursor]asking{}, seen: time.Now()}
	for _, m := range o.Missing {
		p.original = append(p.original, append([]uint64(nil), m...))
		p.left += count(m)
	}
	return p
}

// Presence says what is known of a page.
type Presence int

// What is known.
const (
	Never   Presence = iota // it is not one of those that come: it is zero
	Asked                   // it will come
	Arrived                 // it is there
)

// Fault says that somebody waits for a page. It may be asked for, then.
func (p *Puller) Fault(region int, page uint64) Presence {
	bit := uint64(1) << (page % 64)
	if p.original[region][page/64]&bit == 0 {
		p.mu.Lock()
		p.local++
		p.mu.Unlock()
		return Never
	}
	p.mu.Lock()
	if p.o.Missing[region][page/64]&bit == 0 {
		p.mu.Unlock()
		return Arrived
	}
	c := cursor{region, page}
	_, twice := p.asked[c]
	if !twice {
		now := time.Now()
		p.asked[c] = asking{now, now}
	}
	fault := p.fault
	p.mu.Unlock()
	if !twice && fault != nil {
		p.fetch(fault, c)
	}
	return Asked
}

func (p *Puller) fetch(c *wire.Conn, at cursor) {
	if err := c.Send(wire.Fetch, wire.AppendFetch(nil, uint16(at.region), at.page)); err != nil {
		_ = c.Close() // its reader sees that, and the source dials again
	}
}

// finish ends Serve, once.
func (p *Puller) finish(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.over, p.err = true, err
		close(p.done)
	}
}

// Serve accepts connections at l until every page has come, which it returns nil
// for, or none can come any more: then the error wraps ErrLost. l is closed.
func (p *Puller) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	defer func() { _ = l.Close() }()
	context.AfterFunc(ctx, func() { _ = l.Close() })
	if p.left == 0 {
		p.finish(nil)
	}
	go p.accept(ctx, l, &conns)
	tick := time.NewTicker(min(p.o.Stall, p.o.Wait) / 4)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			if p.err == nil { // whoever does not hear it now is told by the receiver
				select {
				case <-p.drained:
				case <-time.After(time.Second):
				}
			}
			return p.err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			p.watch()
		}
	}
}

// watch sees to it that nobody waits for ever.
func (p *Puller) watch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.push != nil {
		p.seen = now
	}
	if gone := now.Sub(p.seen); gone > p.o.Wait {
		err := fmt.Errorf("%w: the source has not been heard of for %v, and %d pages are missing", ErrLost, gone.Round(time.Second), p.left)
		p.mu.Unlock()
		p.finish(err)
		p.mu.Lock()
		return
	}
	if p.fault == nil {
		return
	}
	for at, a := range p.asked {
		if now.Sub(a.sent) > p.o.Stall {
			p.o.Log.Warn("the source does not send a page that somebody waits for", "region", at.region, "page", at.page, "for", now.Sub(a.since))
			_ = p.fault.Close() // it dials again, and is asked again
			return
		}
	}
}

// take gives missing pages their content. Those that have come already are left as
// they are: the guest may have written to them.
func (p *Puller) take(b []byte, runs []wire.Run) ([]wire.Run, error) {
	runs, data, err := wire.DecodePages(b, p.o.Pages, runs)
	if err != nil {
		return nil, err
	}
	p.filling.Lock()
	defer p.filling.Unlock()
	for _, r := range runs {
		for i := range uint64(r.Count) {
			page := r.Page + i
			if p.original[r.Region][page/64]>>(page%64)&1 == 0 {
				return nil, fmt.Errorf("%w: page %d of region %d comes, and was not missing", ErrProtocol, page, r.Region)
			}
		}
	}
	for _, r := range runs {
		for from := r.Page; from < r.Page+uint64(r.Count); {
			n := p.absent(int(r.Region), from, r.Page+uint64(r.Count))
			skip := max(n, 1)
			var bytes []byte
			if !r.Zero {
				bytes, data = data[:n*pageSize], data[skip*pageSize:]
			}
			if n > 0 {
				if err := p.o.Fill(int(r.Region), from, n, bytes); err != nil {
					p.finish(err)
					return nil, err
				}
				p.arrived(int(r.Region), from, n)
			}
			from += skip
		}
	}
	return runs, nil
}

// absent returns how many pages from from on, before to, are missing.
func (p *Puller) absent(region int, from, to uint64) (n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; from < to && p.o.Missing[region][from/64]>>(from%64)&1 != 0; from++ {
		n++
	}
	return n
}

// arrived notes that pages are there, and tells the source when they are all.
func (p *Puller) arrived(region int, from, n uint64) {
	p.mu.Lock()
	now := time.Now()
	for page := from; page < from+n; page++ {
		p.o.Missing[region][page/64] &^= 1 << (page % 64)
		if a, ok := p.asked[cursor{region, page}]; ok {
			delete(p.asked, cursor{region, page})
			p.waits.add(now.Sub(a.since))
		}
	}
	p.left -= n
	all, push := p.left == 0, p.push
	p.mu.Unlock()
	if !all {
		return
	}
	p.finish(nil)
	if push != nil {
		_ = sendJSON(push, wire.Drained, p.Arrival()) // or it dials again, and is told
	}
}

// Arrival is the account of what has come so far.
func (p *Puller) Arrival() Arrival {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waits.arrival(p.local)
}
