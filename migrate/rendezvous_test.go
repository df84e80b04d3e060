package migrate_test

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/hvctl/hvctl/migrate/rendezvous"
	"github.com/hvctl/hvctl/migrate/transport"
)

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
