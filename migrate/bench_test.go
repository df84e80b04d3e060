package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/transport"
)

const benchRAM = 256 << 20

// BenchmarkStream compares what migration carries with what the same sockets
// carry when a program does nothing but write and read ("plain"), and when it
// also puts what it has read into RAM that was not there before ("store"). The
// three take turns, and the least time of each counts: other work on the machine
// only ever adds.
func BenchmarkStream(b *testing.B) {
	src := benchGuest(b)
	for _, kind := range []string{"tcp", "unix", "tls"} {
		for _, streams := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("%s/streams=%d", kind, streams), func(b *testing.B) { benchStream(b, kind, streams, src) })
		}
	}
}

// least is the least that something took.
type least struct{ wall, cpu time.Duration }

func (l *least) take(wall, cpu time.Duration) {
	if l.wall == 0 {
		l.wall, l.cpu = wall, cpu
	}
	l.wall, l.cpu = min(l.wall, wall), min(l.cpu, cpu)
}

func (l least) report(b *testing.B, name string) {
	b.ReportMetric(benchRAM/l.wall.Seconds()/1e6, name+"-MB/s")
	b.ReportMetric(l.cpu.Seconds()*(1<<30)/benchRAM, name+"-cpu-s/GiB")
}

func benchStream(b *testing.B, kind string, streams int, src *memory.Guest) {
	move := benchMigrate(b, kind, streams, src)
	var plain, store, moved least
	for b.Loop() {
		plain.take(benchPlain(b, kind, streams, src, false))
		store.take(benchPlain(b, kind, streams, src, true))
		moved.take(move())
	}
	b.ReportMetric(0, "ns/op")
	plain.report(b, "plain")
	store.report(b, "store")
	moved.report(b, "migrate")
	b.ReportMetric(100*plain.wall.Seconds()/moved.wall.Seconds(), "%of-plain")
}

// benchGuest returns RAM without a zero page.
func benchGuest(b *testing.B) *memory.Guest {
	g, err := memory.New(memory.Options{Size: benchRAM})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = g.Close() })
	for i := range g.Regions()[0].Bytes {
		g.Regions()[0].Bytes[i] = byte(i>>12) | 1
	}
	return g
}

// benchLink returns both ends of the transport.
func benchLink(b *testing.B, kind string) (net.Listener, migrate.Dial) {
	if kind == "tcp" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		var d net.Dialer
		return l, func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", l.Addr().String()) }
	}
	var o transport.Options
	addr := "unix:" + filepath.Join(b.TempDir(), "s")
	if kind == "tls" {
		id, err := transport.LoadIdentity(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		o, addr = transport.Options{Identity: id, Allow: []string{id.Fingerprint()}}, "127.0.0.1:0"
	}
	l, err := transport.Listen(addr, o)
	if err != nil {
		b.Fatal(err)
	}
	if kind == "tls" {
		addr = l.Addr().String()
	}
	dial, err := transport.Dial(addr, o)
	if err != nil {
		b.Fatal(err)
	}
	return l, dial
}

func benchPlain(b *testing.B, kind string, streams int, src *memory.Guest, store bool) (wall, used time.Duration) {
	l, dial := benchLink(b, kind)
	defer func() { _ = l.Close() }()
	const chunk = 256 << 10
	ram := src.Regions()[0].Bytes
	dst, err := memory.New(memory.Options{Size: benchRAM})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = dst.Close() }()
	var at atomic.Int64
	var wg sync.WaitGroup
	begin, before := time.Now(), cpu()
	for i := range streams {
		wg.Go(func() {
			c, err := l.Accept()
			if err != nil {
				b.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			buf := make([]byte, chunk)
			for {
				if _, err := io.ReadFull(c, buf); err != nil {
					return
				}
				if store {
					if _, err := unix.Pwrite(dst.FD(), buf, at.Add(chunk)-chunk); err != nil {
						b.Error(err)
					}
				}
			}
		})
		wg.Go(func() {
			c, err := dial(b.Context())
			if err != nil {
				b.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			for off := i * chunk; off < len(ram); off += streams * chunk {
				if _, err := c.Write(ram[off : off+chunk]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begin), cpu() - before
}

// benchMigrate returns a function that migrates src once and returns the time of
// copying, and the processor time of all.
func benchMigrate(b *testing.B, kind string, streams int, src *memory.Guest) func() (wall, used time.Duration) {
	l, dial := benchLink(b, kind)
	records, err := commit.OpenDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	w := newWorld()
	from := benchSource{&machine{name: "source", world: w, g: src, failure: map[string]error{}}}
	r := migrate.NewReceiver(records, migrate.ReceiveOptions{
		Prepare: func(context.Context, migrate.Offer) (migrate.Destination, error) {
			g, err := memory.New(memory.Options{Size: benchRAM})
			return benchDest{&machine{name: "destination", world: w, g: g}}, err
		},
		Drop: func(d migrate.Destination) { _ = d.(benchDest).g.Close() },
	})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.Serve(ctx, l) }()
	b.Cleanup(func() { cancel(); <-served; _ = records.Close() })
	n := 0
	return func() (time.Duration, time.Duration) {
		n++
		before := cpu()
		// The last step is refused, so that the same machine can be sent again.
		rep, err := migrate.Send(b.Context(), from, dial, commit.File(filepath.Join(b.TempDir(), fmt.Sprint(n))), migrate.SendOptions{Streams: streams, Downtime: time.Second})
		if err == nil || !strings.Contains(err.Error(), "enough") {
			b.Fatal(err)
		}
		<-r.Outcomes()
		return rep.Rounds[0].Duration, cpu() - before
	}
}

// cpu returns the processor time that this process has used.
func cpu() time.Duration {
	var ru unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

type benchSource struct{ *machine }

func (benchSource) SaveState() ([]state.Section, error) { return nil, nil }

type benchDest struct{ *machine }

func (benchDest) LoadState([]state.Section) error { return errors.New("enough") }
