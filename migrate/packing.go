package migrate

import (
	"fmt"
	"net"
	"time"

	"github.com/hvctl/hvctl/migrate/wire"
)

// Compress says what to do with the memory's bytes before they are sent.
type Compress string

// What to do. Compressing needs a destination of protocol version 2; to others
// everything is sent as it is.
const (
	// CompressAuto compresses while the link is slower than that takes.
	CompressAuto Compress = "auto"
	CompressNone Compress = "none"
	CompressS2   Compress = "s2"
	CompressZstd Compress = "zstd"
)

// ParseCompress returns the Compress of that name.
func ParseCompress(s string) (Compress, error) {
	switch c := Compress(s); c {
	case CompressAuto, CompressNone, CompressS2, CompressZstd:
		return c, nil
	}
	return "", fmt.Errorf("compression %q: want auto, none, s2 or zstd", s)
}

// plain stands for no method: frames are sent as they are.
const plain wire.Method = 0

const (
	// window is how many frames are judged together: 2 MiB of pages. What fits a
	// socket unnoticed makes the first of them look as if the link were fast.
	window = 8
	// firstTry is the frame with which a method is first tried, and lastTry the
	// most frames between two tries of what does not help.
	firstTry, lastTry = 2 * window, 1024
	// firstHold and lastHold bound for how many windows nothing is packed after
	// packing turned out to be slower.
	firstHold, lastHold = 4, 256
	// longest is for how many windows a method is used before the link is looked at
	// again: that it has become faster does not show while it is not the bottleneck.
	longest = 128
	// fastLink is what no method keeps up with, in bytes per second and stream.
	fastLink = 1e9
	// worth is how much faster than nothing a method has to promise to be.
	worth = 1.2
	// shrunk is the largest share of its bytes to which a frame is worth packing.
	shrunk = 15.0 / 16
)

// gauge chooses how one stream packs its frames. It goes by what was seen of the
// link while nothing was packed, and of each method on single frames: the pace
// of a method is its own or, if that is less, the link's with fewer bytes.
type gauge struct {
	mode Compress
	here bool // the peer is on this host
	now  wire.Method
	link float64 // bytes per second that the link took; 0 before it is known
	seen [3]struct {
		speed, share float64 // bytes packed per second; bytes after by bytes before
	}
	frames     int // so far
	try, wait  int // the frame that tries a method which is not in use; how far off the one after is
	hold, held int // windows in which nothing is packed: left, and of the last time
	inUse      int // windows since the method was chosen

	// of the window that is under way
	begun     time.Time // zero: there is none
	raw, sent int       // bytes
	n         int       // frames
}

func newGauge(mode Compress) gauge {
	return gauge{mode: mode, try: firstTry, wait: 4 * firstTry, held: firstHold}
}

// over tells which connection the frames will take. To a peer on this host nothing
// is packed by itself: what is slow then is not a link, but processors that it
// would only keep busier.
func (g *gauge) over(c net.Conn) {
	if g.mode != CompressAuto {
		return
	}
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	g.here = !ok || tcp.IP.IsLoopback()
}

// pause is the end of a time in which there was something to send.
func (g *gauge) pause() { g.begun = time.Time{} }

// next returns the method for the frame that is made at now.
func (g *gauge) next(now time.Time) wire.Method {
	switch g.mode {
	case CompressS2:
		return wire.S2
	case CompressZstd:
		return wire.Zstd
	case CompressNone:
		return plain
	}
	if g.begun.IsZero() {
		g.begun, g.raw, g.sent, g.n = now, 0, 0, 0
	}
	g.frames++
	if g.here || g.now != plain || g.frames < g.try || g.link == 0 || g.link > fastLink {
		return g.now
	}
	g.try, g.wait = g.frames+g.wait, min(2*g.wait, lastTry)
	if s := g.seen[wire.S2]; s.speed > 0 && s.share < shrunk && g.seen[wire.Zstd].speed == 0 {
		return wire.Zstd
	}
	return wire.S2
}

// packed tells how packing a frame went.
func (g *gauge) packed(m wire.Method, before, after int, took time.Duration) {
	s := &g.seen[m]
	speed, share := float64(before)/max(took, time.Microsecond).Seconds(), float64(after)/float64(before)
	if s.speed == 0 {
		if s.speed, s.share = speed, share; m == wire.S2 && share < shrunk {
			g.try = g.frames + 1 // there is something to gain: perhaps even more by the other
		}
		return
	}
	s.speed, s.share = (3*s.speed+speed)/4, (3*s.share+share)/4
}

// done tells that the link has taken a frame.
func (g *gauge) done(raw, sent int, now time.Time) {
	g.raw, g.sent, g.n = g.raw+raw, g.sent+sent, g.n+1
	if g.begun.IsZero() {
		return
	}
	took := max(now.Sub(g.begun), time.Microsecond).Seconds()
	pace, wired := float64(g.raw)/took, float64(g.sent)/took
	hopeless := g.now != plain && g.n >= 2 && pace < g.link/2
	if g.n < window && !hopeless {
		return
	}
	g.begun, g.raw, g.sent, g.n = now, 0, 0, 0
	switch {
	case g.now == plain:
		if g.link = wired; g.hold > 0 {
			g.hold--
			return
		}
		g.now, g.inUse = g.best(), 0
	case pace < g.link: // slower than without, by what was seen last
		g.now, g.hold = plain, g.held
		g.held = min(2*g.held, lastHold)
	default:
		g.held = firstHold
		if g.inUse++; g.inUse >= longest {
			g.now = plain
		}
	}
}

// best returns the method that promises most.
func (g *gauge) best() wire.Method {
	best, pace := plain, g.link*worth
	for _, m := range []wire.Method{wire.S2, wire.Zstd} {
		s := g.seen[m]
		if s.speed == 0 || s.share >= shrunk {
			continue
		}
		if p := min(s.speed, g.link/s.share); p > pace {
			best, pace = m, p
		}
	}
	return best
}
