package migrate

import (
	"math"
	"net"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate/wire"
)

// road is a link with a buffer before it, and processors that pack; its clock
// moves only by what it carries.
type road struct {
	link   float64 // bytes per second
	buffer float64 // bytes
	speed  [3]float64
	share  [3]float64

	now  time.Time
	used float64 // of the buffer
}

func (r *road) pass(d float64) {
	r.now = r.now.Add(time.Duration(d * 1e9))
	r.used = max(0, r.used-d*r.link)
}

func (r *road) send(n float64) {
	r.pass(n / 5e9) // into the buffer
	if over := r.used + n - r.buffer; over > 0 {
		r.pass(over / r.link)
	}
	r.used += n
}

// carry sends frames as a stream does, and returns the time and how many went by
// each method.
func (r *road) carry(g *gauge, frames int) (took float64, by [3]int) {
	const size = 256 << 10
	begin := r.now
	for range frames {
		m := g.next(r.now)
		by[m]++
		sent := float64(size)
		if m != plain {
			d := size / r.speed[m]
			r.pass(d)
			g.packed(m, size, int(size*r.share[m]), time.Duration(d*1e9))
			if r.share[m] <= shrunk {
				sent *= r.share[m]
			}
		}
		r.send(sent)
		g.done(size, int(sent), r.now)
	}
	g.pause()
	return r.now.Sub(begin).Seconds(), by
}

func TestStreamsPackWhenItPays(t *testing.T) {
	speed, share := [3]float64{wire.S2: 800e6, wire.Zstd: 350e6}, [3]float64{wire.S2: .5, wire.Zstd: .3}
	for _, tc := range []struct {
		name string
		road road
		want wire.Method // of most frames
		lost float64     // how much slower than the best single method at most
	}{
		{"slow link", road{link: 12e6, buffer: 4e6, speed: speed, share: share}, wire.Zstd, 1.12},
		{"1 Gbit/s", road{link: 112e6, buffer: 4e6, speed: speed, share: share}, wire.Zstd, 1.12},
		{"link faster than zstd", road{link: 390e6, buffer: 4e6, speed: speed, share: share}, wire.S2, 1.12},
		{"memory", road{link: 4e9, buffer: 4e6, speed: speed, share: share}, plain, 1},
		{"noise on a slow link", road{link: 25e6, buffer: 1e6, speed: speed, share: [3]float64{0, 1, 1}}, plain, 1.01},
		{"noise, slow processor", road{link: 25e6, buffer: 1e6, speed: [3]float64{0, 40e6, 15e6}, share: [3]float64{0, 1, 1}}, plain, 1.01},
		{"slow processor", road{link: 60e6, buffer: 1e6, speed: [3]float64{0, 40e6, 15e6}, share: share}, plain, 1.03},
		{"very slow processor", road{link: 60e6, buffer: 1e6, speed: [3]float64{0, 6e6, 3e6}, share: share}, plain, 1.03},
		{"no buffer", road{link: 112e6, speed: speed, share: share}, wire.Zstd, 1.12},
	} {
		t.Run(tc.name, func(t *testing.T) {
			const frames = 4096
			best := math.Inf(1)
			for _, mode := range []Compress{CompressNone, CompressS2, CompressZstd} {
				r, g := tc.road, newGauge(mode)
				took, _ := r.carry(&g, frames)
				best = min(best, took)
			}
			r, g := tc.road, newGauge(CompressAuto)
			took, by := r.carry(&g, frames)
			if by[tc.want] < frames*8/10 {
				t.Errorf("frames by method: %v, want most by %d", by, tc.want)
			}
			if took > tc.lost*best {
				t.Errorf("took %.2f s, the best method takes %.2f s", took, best)
			}
		})
	}
}

func TestStreamsNoticeThatTheLinkChanges(t *testing.T) {
	r := road{
		link: 4e9, buffer: 4e6,
		speed: [3]float64{wire.S2: 800e6, wire.Zstd: 350e6}, share: [3]float64{wire.S2: .5, wire.Zstd: .3},
	}
	g := newGauge(CompressAuto)
	for _, step := range []struct {
		link float64
		want wire.Method
	}{{4e9, plain}, {50e6, wire.Zstd}, {4e9, plain}, {10e6, wire.Zstd}} {
		r.link = step.link
		r.carry(&g, 1024) // it may take that long
		_, by := r.carry(&g, 1024)
		if by[step.want] < 900 {
			t.Errorf("at %.0f MB/s frames by method: %v, want most by %d", step.link/1e6, by, step.want)
		}
	}
}

// What is packed becomes noise: then it goes as it is, at the cost of some tries.
func TestStreamsNoticeThatNothingIsGained(t *testing.T) {
	r := road{
		link: 50e6, buffer: 1e6,
		speed: [3]float64{wire.S2: 800e6, wire.Zstd: 350e6}, share: [3]float64{wire.S2: .5, wire.Zstd: .3},
	}
	g := newGauge(CompressAuto)
	r.carry(&g, 1024)
	r.share = [3]float64{0, 1, 1}
	took, by := r.carry(&g, 4096)
	if want := 4096 * 256 << 10 / r.link; took > 1.05*want {
		t.Errorf("noise took %.2f s (%v), the link alone takes %.2f s", took, by, want)
	}
}

// A peer on this host shares our processors: what is slow there is no link.
func TestNothingIsPackedForAPeerOnThisHost(t *testing.T) {
	for _, tc := range []struct {
		peer net.Addr
		want bool // something is tried
	}{
		{&net.UnixAddr{Net: "unix", Name: "/run/s"}, false},
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, false},
		{&net.TCPAddr{IP: net.IPv6loopback}, false},
		{&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, true},
	} {
		r := road{link: 5e6, buffer: 1e6, speed: [3]float64{0, 800e6, 350e6}, share: [3]float64{0, .5, .3}}
		g := newGauge(CompressAuto)
		g.over(peer{addr: tc.peer})
		_, by := r.carry(&g, 1000)
		if got := by[plain] < 1000; got != tc.want {
			t.Errorf("%v: frames by method: %v", tc.peer, by)
		}
	}
}

// peer is a connection to an address.
type peer struct {
	net.Conn
	addr net.Addr
}

func (p peer) RemoteAddr() net.Addr { return p.addr }
