package migrate

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/hvctl/hvctl/migrate/sparse"
	"github.com/hvctl/hvctl/migrate/wire"
)

// answer sends each page that is asked for, at once.
func (p *pageServer) answer(c *wire.Conn) error {
	buf := make([]byte, bufferFor(1))
	for {
		t, b, err := c.Recv(5 * p.dialer.o.Keepalive)
		switch {
		case err != nil:
			return fmt.Errorf("%w: %w", errLink, err)
		case t != wire.Fetch:
			return fmt.Errorf("%w: %v instead of FETCH", ErrProtocol, t)
		}
		region, page, err := wire.DecodeFetch(b, p.pages)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if p.missing[region][page/64]>>(page%64)&1 == 0 {
			return fmt.Errorf("%w: FETCH of page %d of region %d, which was sent before the hand-over", ErrProtocol, page, region)
		}
		p.mu.Lock()
		p.urgent++
		p.todo[region][page/64] &^= 1 << (page % 64)
		p.at = cursor{int(region), page} // who touched this will touch what follows
		p.stats.Faulted++
		p.mu.Unlock()
		n, err := p.send(c, buf, int(region), page, 1)
		p.mu.Lock()
		p.stats.Bytes += n
		if p.urgent--; p.urgent == 0 {
			p.idle.Broadcast()
		}
		p.mu.Unlock()
		if err != nil {
			return fmt.Errorf("%w: %w", errLink, err)
		}
	}
}

// push sends what nobody has asked for, while nobody waits.
func (p *pageServer) push(ctx context.Context, c *wire.Conn) error {
	buf := make([]byte, bufferFor(pushPages))
	for {
		region, page, n, ok := p.next()
		if !ok {
			return nil
		}
		if err := p.limiter.wait(ctx, n*pageSize); err != nil {
			return err
		}
		sent, err := p.send(c, buf, region, page, n)
		if err != nil {
			return fmt.Errorf("%w: %w", errLink, err)
		}
		p.mu.Lock()
		p.stats.Bytes += sent
		p.stats.Pushed += uint64(n)
		p.mu.Unlock()
	}
}

// next takes a run of pages to push, when nobody waits; ok is false when nothing is
// left, or the link is broken.
func (p *pageServer) next() (region int, page uint64, n int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.urgent > 0 && !p.broken {
		p.idle.Wait()
	}
	if p.broken {
		return 0, 0, 0, false
	}
	for range len(p.areas) + 1 { // the first region's begin may come last
		todo := p.todo[p.at.region]
		if page, ok := after(todo, p.at.page); ok {
			limit := min(pushPages, wire.StripePages-page%wire.StripePages)
			for n = 0; n < int(limit) && page/64 < uint64(len(todo)) && todo[page/64]>>(page%64)&1 != 0; n++ {
				todo[page/64] &^= 1 << (page % 64)
				page++
			}
			p.at.page = page
			return p.at.region, page - uint64(n), n, true
		}
		p.at = cursor{(p.at.region + 1) % len(p.areas), 0}
	}
	return 0, 0, 0, false
}

// after returns the first page at or after from that is set.
func after(bitmap []uint64, from uint64) (uint64, bool) {
	mask := ^uint64(0) << (from % 64)
	for w := from / 64; w < uint64(len(bitmap)); w++ {
		if v := bitmap[w] & mask; v != 0 {
			return w*64 + uint64(bits.TrailingZeros64(v)), true
		}
		mask = ^uint64(0)
	}
	return 0, false
}

// bufferFor is the length of the longest frame of n pages.
func bufferFor(n int) int { return wire.HeaderSize + wire.TableSize(n) + n*pageSize }

// send sends n pages of a region; the bytes of those that are zero stay out. It
// returns the length of the frame.
func (p *pageServer) send(c *wire.Conn, buf []byte, region int, page uint64, n int) (uint64, error) {
	var runs []wire.Run
	for i := range uint64(n) {
		at := page + i
		zero := sparse.IsZero(p.areas[region].ram[at*pageSize : (at+1)*pageSize])
		if last := len(runs) - 1; i > 0 && runs[last].Zero == zero {
			runs[last].Count++
		} else {
			runs = append(runs, wire.Run{Region: uint16(region), Page: at, Count: 1, Zero: zero})
		}
	}
	frame := wire.AppendRuns(buf[:wire.HeaderSize], runs)
	zeroes := uint64(0)
	for _, r := range runs {
		if r.Zero {
			zeroes += uint64(r.Count)
			continue
		}
		frame = append(frame, p.areas[region].ram[r.Page*pageSize:(r.Page+uint64(r.Count))*pageSize]...)
	}
	p.mu.Lock()
	p.stats.Zero += zeroes
	p.mu.Unlock()
	return uint64(len(frame)), c.SendInPlace(wire.Pages, frame)
}
