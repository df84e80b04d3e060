package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/hvctl/hvctl/internal/boot"
	"github.com/hvctl/hvctl/internal/initrd"
	"github.com/hvctl/hvctl/migrate"
)

// Options say what to measure.
type Options struct {
	Hvctl   string // this program
	Hvdirty string // the guest's
	QEMU    string // the peer's program; empty: no peer
	Kernel  string // file
	Dir     string // for what is left of a run until the next

	CPUs       int
	MemoryMiB  int
	FillMiB    int // of it, with content that does not change
	SetMiB     int // of it, with content that changes
	Loads      []int
	Iterations int
	LinkRate   uint64 // bytes a second, each way
	TLS        bool   // measure our stream in TLS, too
	Streams    []int
	Downtime   time.Duration
	Timeout    time.Duration // of one migration

	Progress func(done, all int, what string)
}

// Sample is one migration.
type Sample struct {
	Target    string `json:"target"` // "hvctl/tcp/1", "qemu/tcp"
	Load      int    `json:"load"`   // asked for, in percent of the link
	Iteration int    `json:"iteration"`

	// From outside, in the same way for every target.
	TotalNs      int64  `json:"totalNs"`      // from the command to the source's word that it is over
	StandstillNs int64  `json:"standstillNs"` // in which nobody saw the guest live
	LinkBytes    uint64 `json:"linkBytes"`    // sent by the source's end, headers and all
	FilledBytes  uint64 `json:"filledBytes"`  // of the guest's memory that is not zero, before
	WrittenRate  uint64 `json:"writtenRate"`  // bytes a second that the guest wrote, before

	// By the guest's own clock: the longest time between two ticks. QEMU stops
	// that clock with the guest.
	GuestGapNs int64 `json:"guestGapNs"`

	// What the VMM says.
	VMMDowntimeNs int64           `json:"vmmDowntimeNs"`
	Rounds        int             `json:"rounds"`
	Report        *migrate.Report `json:"report,omitempty"` // ours

	Error string `json:"error,omitempty"`
}

// guest is what both VMMs boot.
type guest struct{ kernel, initrd, cmdline string }

// target brings up VMMs that can be measured.
type target interface {
	name() string
	// start brings up both sides: one whose guest boots, one that waits for it.
	start(ctx context.Context, l *link, g guest) (pair, error)
}

// pair is the two sides of one migration.
type pair interface {
	pids() (from, to int)
	migrate(ctx context.Context, o Options) error // returns when the source says that it is over
	account(ctx context.Context, s *Sample) error // fills in what the VMM says
	words() error
	close()
}

// Run measures every target under every load. A sample that failed is kept with
// its error. plain is what a socket carried over the link, in bytes a second.
func Run(ctx context.Context, o Options) (samples []Sample, plain float64, err error) {
	l, err := newLink(o.LinkRate)
	if err != nil {
		return nil, 0, err
	}
	defer l.close()
	if plain, err = l.plain(int(2 * o.LinkRate)); err != nil {
		return nil, 0, fmt.Errorf("the link: %w", err)
	}
	k, err := boot.OpenKernel(o.Kernel, o.Dir)
	if err != nil {
		return nil, plain, err
	}
	defer k.Close()
	rd, err := initrd.File(o.Dir, initrd.Options{Hvinit: o.Hvdirty})
	if err != nil {
		return nil, plain, err
	}
	var targets []target
	for _, n := range o.Streams {
		targets = append(targets, &hvctlTarget{o: o, streams: n})
		if o.TLS {
			targets = append(targets, &hvctlTarget{o: o, streams: n, tls: true})
		}
	}
	if o.QEMU != "" {
		if _, err := os.Stat(o.QEMU); err != nil {
			return nil, plain, fmt.Errorf("peer: %w (install the package qemu-system-x86, or measure without --peer)", err)
		}
		targets = append(targets, &qemuTarget{o: o})
	}
	all := o.Iterations * len(targets) * len(o.Loads)
	for i := range o.Iterations {
		if i > 0 {
			slices.Reverse(targets) // A B, B A, ...: a drift hits all alike
		}
		for _, load := range o.Loads {
			g := guest{k.ELFPath(), rd, fmt.Sprintf("quiet panic=-1 -- fill=%d set=%d rate=%d", o.FillMiB, o.SetMiB, int(plain)*load/100)}
			for _, t := range targets {
				if err := ctx.Err(); err != nil {
					return samples, plain, context.Cause(ctx)
				}
				o.Progress(len(samples), all, fmt.Sprintf("%s, %d %%", t.name(), load))
				s, err := measure(ctx, o, l, t, g)
				s.Target, s.Load, s.Iteration = t.name(), load, i
				if err != nil {
					s.Error = err.Error()
				}
				samples = append(samples, s)
			}
		}
	}
	return samples, plain, nil
}

// settle is how long a guest lives before it is moved.
const settle = time.Second

// bring is how long a guest may take to boot and set its memory up.
const bring = 3 * time.Minute

func measure(ctx context.Context, o Options, l *link, t target, g guest) (s Sample, err error) {
	p, err := t.start(ctx, l, g)
	if err != nil {
		return s, err
	}
	defer p.close()
	defer func() {
		if err != nil {
			err = errors.Join(err, p.words())
		}
	}()
	size := int64(o.MemoryMiB) << 20
	from, to := p.pids()
	mem, err := openRAM(from, size)
	if err != nil {
		return s, err
	}
	defer func() { _ = mem.Close() }()
	booting, cancel := context.WithTimeout(ctx, bring)
	defer cancel()
	at, err := mem.find(booting, size)
	if err != nil {
		return s, err
	}
	before, _ := mem.beat(at)
	began := time.Now()
	if err := sleep(ctx, settle); err != nil {
		return s, err
	}
	after, _ := mem.beat(at)
	s.WrittenRate = uint64(float64(after.Written-before.Written) / time.Since(began).Seconds())
	if s.FilledBytes, err = mem.filled(size); err != nil {
		return s, err
	}
	sent, err := l.sent()
	if err != nil {
		return s, err
	}
	w := &watch{begin: time.Now()}
	done, watched := make(chan struct{}), make(chan error, 1)
	wctx, stop := context.WithTimeout(ctx, o.Timeout+time.Minute)
	defer stop()
	go func() { watched <- w.follow(wctx, mem, func() (ram, error) { return openRAM(to, size) }, at, done) }()
	err = p.migrate(ctx, o)
	s.TotalNs = time.Since(w.begin).Nanoseconds()
	if err != nil {
		stop()
	}
	close(done)
	if err = errors.Join(err, <-watched); err != nil {
		return s, err
	}
	now, err := l.sent()
	if err != nil {
		return s, err
	}
	gap, _ := w.standstill()
	s.LinkBytes, s.StandstillNs, s.GuestGapNs = now-sent, gap.Nanoseconds(), int64(w.gap)
	return s, p.account(ctx, &s)
}
