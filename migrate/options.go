package migrate

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"runtime"
	"time"

	"github.com/hvctl/hvctl/migrate/commit"
)

// Dial opens one connection to the destination, authenticated as far as the
// transport does that (package migrate/transport).
type Dial func(ctx context.Context) (net.Conn, error)

// OnTimeout says what to do with a guest that writes too fast.
type OnTimeout string

// What to do.
const (
	Cancel OnTimeout = "cancel" // the guest runs on here
	Force  OnTimeout = "force"  // switch over whatever the blackout
	// Slow slows the guest down when rounds do not shrink, and when the time is up
	// to a standstill nearly, for as long again. After that it is Cancel.
	Slow OnTimeout = "throttle"
	// Later hands the guest over without the pages that are left, which follow when
	// they are touched (post-copy), as soon as rounds do not shrink any more.
	Later OnTimeout = "postcopy"
)

// SendOptions tunes Send. Zero values mean the defaults given.
type SendOptions struct {
	VM          string          // the machine's name, for records and messages
	Token       string          // one-time token of the destination
	Peer        string          // where the destination can be asked, for the record
	Description json.RawMessage // of the machine, opaque; at most 1 MiB
	Plan        json.RawMessage // of the resources, opaque
	Build       string          // this program, for the other side's messages

	Streams   int           // data connections; min(4, processors)
	Compress  Compress      // auto
	Rate      uint64        // bytes per second; no limit
	Downtime  time.Duration // blackout aimed at; 50 ms
	Blackout  time.Duration // blackout at which the source takes the guest back; 10 * Downtime, at least 1 s, 60 s when forced
	Timeout   time.Duration // of copying; none
	MaxRounds int           // of copying; 30
	OnTimeout OnTimeout     // cancel
	// AtOnce is Later without any rounds before; disks are copied first all the same.
	AtOnce   bool
	Throttle bool // slow the guest down when rounds do not shrink; Slow does so, too
	// Operator takes words on a migration past the point of no return while Send is
	// still under way, as it is until a destination that lacks pages has them all:
	// commit.KeepSource, commit.KeepDest, and commit.Retry for dialling again now.
	Operator <-chan commit.Event
	// Ended is closed when the guest's memory goes: who waits for pages is told.
	Ended <-chan struct{}
	// Done tells the destination when it is on record here that it has the machine: it
	// need not wait for questions any more (ReceiveOptions.Done).
	Done bool
	// Progress is told of every round, and of what follows when pages follow later,
	// by a copy of the report so far; nil is fine. It must be quick.
	Progress func(Report)

	Prepare    time.Duration // for the destination to build the machine; 1 min
	Reconnects int           // attempts to dial again in a row; 5
	Backoff    time.Duration // before the first of them, doubling; 100 ms
	Stall      time.Duration // longest time without any progress of the link; 10 s
	Keepalive  time.Duration // between PINGs; 2 s
	Answer     time.Duration // wait for RUNNING after GO before asking; 5 s
	Doubt      time.Duration // keep asking before Send returns ErrInDoubt; 30 s

	Log *slog.Logger // nil is silence
}

func (o SendOptions) withDefaults() SendOptions {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if o.Streams == 0 {
		o.Streams = min(4, runtime.GOMAXPROCS(0))
	}
	if o.MaxRounds == 0 {
		o.MaxRounds = 30
	}
	if o.OnTimeout == "" {
		o.OnTimeout = Cancel
	}
	if o.AtOnce {
		o.OnTimeout = Later
	}
	if o.OnTimeout == Slow {
		o.Throttle = true
	}
	if o.Compress == "" {
		o.Compress = CompressAuto
	}
	if o.Progress == nil {
		o.Progress = func(Report) {}
	}
	if o.Reconnects == 0 {
		o.Reconnects = 5
	}
	def(&o.Downtime, 50*time.Millisecond)
	def(&o.Blackout, max(10*o.Downtime, time.Second))
	def(&o.Backoff, 100*time.Millisecond)
	def(&o.Prepare, time.Minute)
	def(&o.Stall, 10*time.Second)
	def(&o.Keepalive, 2*time.Second)
	def(&o.Answer, 5*time.Second)
	def(&o.Doubt, 30*time.Second)
	if o.Description == nil {
		o.Description = json.RawMessage("{}")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// maxBackoff bounds the wait between two dials.
const maxBackoff = 2 * time.Second
