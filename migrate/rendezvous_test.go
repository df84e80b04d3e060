package migrate_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/hvctl/hvctl/migrate/rendezvous"
	"github.com/hvctl/hvctl/migrate/transport"
	"github.com/hvctl/hvctl/migrate/wire"
)

// through has r's source take connections that its destination makes, to the address
// that local returns once the receiver listens.
func through(t *testing.T, r *rig, local func() string) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	gate, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	here, there, err := handoff.Pair()
	if err != nil {
		t.Fatal(err)
	}
	key := rendezvous.NewKey()
	var asking sync.Mutex
	r.dial = func(ctx context.Context) (net.Conn, error) {
		asking.Lock()
		defer asking.Unlock()
		files, err := handoff.Ask(here, "connect", 30*time.Second)
		if err != nil {
			return nil, err
		}
		defer files[0].Close()
		return net.FileConn(files[0])
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		_ = (&rendezvous.Desk{Listener: gate.(*net.TCPListener), Key: key, Log: quiet}).Serve(there)
		_ = there.Close()
	})
	var d net.Dialer
	ended.Go(func() {
		_ = (&rendezvous.Puller{
			Key: key, Log: quiet,
			Dial:  func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", gate.Addr().String()) },
			Local: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", local()) },
		}).Run(ctx)
	})
	t.Cleanup(func() {
		_ = here.Close()
		cancel()
		ended.Wait()
	})
}

// Frames that are lost on connections of the destination's making leave one runner as
// any others: the source asks over the next one.
func TestAPulledGuestHasOneRunner(t *testing.T) {
	for _, tc := range []struct {
		typ   wire.Type
		fault fault
	}{{wire.Applied, cut}, {wire.Ready, drop}, {wire.Go, cut}, {wire.Go, cutAfter}, {wire.Running, drop}, {wire.Running, cut}} {
		t.Run(string(tc.fault)+" "+tc.typ.String(), func(t *testing.T) {
			t.Parallel()
			var p *proxy
			listens := make(chan struct{})
			r := newRig(t, func(r *rig) {
				quick(r)
				through(t, r, func() string {
					<-listens
					return p.ln.Addr().String()
				})
			})
			p = newProxy(t, r.ln.Addr(), tc.typ, 0, tc.fault)
			close(listens)
			_, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
			r.judge(t, err)
			if errors.Is(err, migrate.ErrInDoubt) || tc.typ == wire.Running && err != nil {
				t.Errorf("it is not known who runs it: %v", err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if !p.met {
				t.Error("there was no such frame")
			}
		})
	}
}

// A guest moves over connections that its destination has made, sealed between the two
// owners; when it is there, everybody in between ends by himself.
func TestGuestIsPulled(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	gate, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	here, there, err := handoff.Pair()
	if err != nil {
		t.Fatal(err)
	}
	key := rendezvous.NewKey()
	path := filepath.Join(t.TempDir(), "s")
	var d net.Dialer
	var peer string
	r := newRig(t, func(r *rig) {
		r.src.rate = 5
		id, err := transport.LoadIdentity(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		to, err := transport.LoadIdentity(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		peer = id.Fingerprint()
		if r.ln, err = transport.Listen("unix+tls:"+path, transport.Options{Identity: to, Allow: []string{peer}}); err != nil {
			t.Fatal(err)
		}
		if r.dial, err = transport.Dial("203.0.113.1:7443", transport.Options{Identity: id, Allow: []string{to.Fingerprint()}, Through: here}); err != nil {
			t.Fatal(err)
		}
	})
	ended := make(chan error, 2)
	go func() {
		ended <- (&rendezvous.Desk{Listener: gate.(*net.TCPListener), Key: key, Log: quiet}).Serve(there)
		_ = there.Close()
	}()
	go func() {
		ended <- (&rendezvous.Puller{
			Key: key, Log: quiet,
			Dial:  func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", gate.Addr().String()) },
			Local: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "unix", path) },
		}).Run(context.Background())
	}()
	_, err = migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
	if err != nil {
		t.Fatal(err)
	}
	if o := <-r.receiver.Outcomes(); o.Offer.Peer != peer {
		t.Errorf("the destination knows the source as %q", o.Offer.Peer)
	}
	r.judge(t, err)
	_ = here.Close()
	for range 2 {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("somebody in between does not end")
		}
	}
}
