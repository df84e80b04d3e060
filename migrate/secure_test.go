package migrate_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/transport"
)

// overTransport gives a rig the listener and the dialer of package transport.
func overTransport(t *testing.T, r *rig, addr string) {
	t.Helper()
	var server, client transport.Options
	for _, o := range []*transport.Options{&server, &client} {
		var err error
		if o.Identity, err = transport.LoadIdentity(t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	server.Allow, client.Allow = []string{client.Identity.Fingerprint()}, []string{server.Identity.Fingerprint()}
	var err error
	if r.ln, err = transport.Listen(addr, server); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(addr, "unix:") {
		addr = r.ln.Addr().String()
	}
	if r.dial, err = transport.Dial(addr, client); err != nil {
		t.Fatal(err)
	}
}

func TestOverTLSAndUnixSocketsWithAToken(t *testing.T) {
	for name, addr := range map[string]string{"tls": "127.0.0.1:0", "unix": "unix:" + filepath.Join(t.TempDir(), "s")} {
		t.Run(name, func(t *testing.T) {
			token := transport.NewToken(time.Minute)
			r := newRig(t, func(r *rig) {
				overTransport(t, r, addr)
				r.src.rate, r.receive.Token, r.send.Token = 5, token.Check, "wrong"
			})
			_, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
			if !errors.Is(err, migrate.ErrRefused) || !strings.Contains(err.Error(), "token") {
				t.Errorf("with a wrong token: %v", err)
			}
			r.judge(t, err)
			r.send.Token = token.String()
			if _, err = migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send); err != nil {
				t.Fatal(err)
			}
			o := <-r.receiver.Outcomes()
			if want := map[string]string{"tls": "sha256:", "unix": "uid:"}[name]; !strings.HasPrefix(o.Offer.Peer, want) {
				t.Errorf("the peer is %q", o.Offer.Peer)
			}
			r.judge(t, err)
		})
	}
}
