package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func identity(t *testing.T) *Identity {
	t.Helper()
	id, err := LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// meet connects both sides and returns what each says about the handshake.
func meet(t *testing.T, addr string, server, client Options) (peerOfClient string, serr, cerr error) {
	t.Helper()
	l, err := Listen(addr, server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if !strings.HasPrefix(addr, unixPrefix) {
		addr = l.Addr().String()
	}
	dial, err := Dial(addr, client)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer func() { _ = c.Close() }()
			if err = c.(*Conn).Handshake(context.Background()); err == nil {
				peerOfClient = c.(*Conn).Peer()
				_, err = c.Write([]byte("x"))
			}
		}
		done <- err
	}()
	c, cerr := dial(t.Context())
	if cerr == nil {
		// With TLS 1.3 the client learns of a refusal when it reads.
		_, cerr = io.ReadFull(c, make([]byte, 1))
		defer func() { _ = c.Close() }()
	} else {
		_ = l.Close()
	}
	return peerOfClient, <-done, cerr
}

func TestOnlyAllowedPeersMeet(t *testing.T) {
	a, b, stranger := identity(t), identity(t), identity(t)
	for _, tc := range []struct {
		name           string
		server, client Options
		good           bool
	}{
		{"both allowed", Options{Identity: a, Allow: []string{b.Fingerprint()}}, Options{Identity: b, Allow: []string{a.Fingerprint()}}, true},
		{"one of several", Options{Identity: a, Allow: []string{stranger.Fingerprint(), b.Fingerprint()}}, Options{Identity: b, Allow: []string{a.Fingerprint()}}, true},
		{"client not allowed", Options{Identity: a, Allow: []string{b.Fingerprint()}}, Options{Identity: stranger, Allow: []string{a.Fingerprint()}}, false},
		{"server not allowed", Options{Identity: stranger, Allow: []string{b.Fingerprint()}}, Options{Identity: b, Allow: []string{a.Fingerprint()}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			peer, serr, cerr := meet(t, "127.0.0.1:0", tc.server, tc.client)
			if tc.good && (serr != nil || cerr != nil || peer != tc.client.Identity.Fingerprint()) {
				t.Errorf("server %v, client %v, peer %q", serr, cerr, peer)
			}
			if !tc.good && (serr == nil || cerr == nil || !errors.Is(serr, ErrPeer) && !errors.Is(cerr, ErrPeer)) {
				t.Errorf("server %v, client %v", serr, cerr)
			}
		})
	}
}

func TestOldTLSAndNoCertificateAreRefused(t *testing.T) {
	a := identity(t)
	for name, config := range map[string]*tls.Config{
		"TLS 1.2":        {MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, Certificates: []tls.Certificate{a.cert}},
		"no certificate": {InsecureSkipVerify: true},
	} {
		l, err := Listen("127.0.0.1:0", Options{Identity: a, Allow: []string{a.Fingerprint()}})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			c, err := l.Accept()
			if err == nil {
				err = c.(*Conn).Handshake(context.Background())
				_ = c.Close()
			}
			done <- err
		}()
		if c, err := tls.Dial("tcp", l.Addr().String(), config); err == nil {
			_, _ = io.ReadAll(c)
			_ = c.Close()
		}
		if err := <-done; err == nil {
			t.Errorf("%s was accepted", name)
		}
		_ = l.Close()
	}
}

func TestUnixSocketKnowsItsUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	peer, serr, cerr := meet(t, unixPrefix+path, Options{}, Options{})
	if serr != nil || cerr != nil || !strings.HasPrefix(peer, "uid:") {
		t.Errorf("server %v, client %v, peer %q", serr, cerr, peer)
	}
	for _, tc := range []struct {
		peer, own uint32
		good      bool
	}{{0, 0, true}, {1000, 1000, true}, {0, 1000, true}, {1001, 1000, false}, {1000, 0, false}} {
		if err := allowedUser(tc.peer, tc.own); (err == nil) != tc.good {
			t.Errorf("user %d at %d: %v", tc.peer, tc.own, err)
		}
	}
}

func TestUnixSocketIsClosedToOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(unixPrefix+path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

func TestListenRefusesAnEmptyOrWrongAllowList(t *testing.T) {
	a := identity(t)
	for name, o := range map[string]Options{
		"nobody allowed": {Identity: a}, "no identity": {Allow: []string{a.Fingerprint()}},
		"no hash": {Identity: a, Allow: []string{"web"}}, "short": {Identity: a, Allow: []string{"sha256:ab"}}, "upper case": {Identity: a, Allow: []string{strings.ToUpper(a.Fingerprint())}},
	} {
		if l, err := Listen("127.0.0.1:0", o); err == nil {
			_ = l.Close()
			t.Errorf("%s: listens", name)
		}
		if _, err := Dial("127.0.0.1:1", o); err == nil {
			t.Errorf("%s: dials", name)
		}
	}
	if _, err := Dial("nowhere", Options{Identity: a, Allow: []string{a.Fingerprint()}}); err == nil {
		t.Error("dials an address without a port")
	}
}

func TestIdentityStays(t *testing.T) {
	dir := t.TempDir()
	a, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := LoadIdentity(dir)
	if err != nil || a.Fingerprint() != b.Fingerprint() {
		t.Errorf("%s, then %s, %v", a.Fingerprint(), b.Fingerprint(), err)
	}
	path := filepath.Join(dir, "migrate-key.pem")
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
}

func TestTokenOpensOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tok := NewToken(time.Minute)
		if err := tok.Check("x" + tok.String()); !errors.Is(err, ErrToken) {
			t.Errorf("wrong: %v", err)
		}
		if err := tok.Check(tok.String()); err != nil {
			t.Errorf("right: %v", err)
		}
		if err := tok.Check(tok.String()); !errors.Is(err, ErrToken) {
			t.Errorf("again: %v", err)
		}
		old := NewToken(time.Minute)
		time.Sleep(61 * time.Second)
		if err := old.Check(old.String()); !errors.Is(err, ErrToken) {
			t.Errorf("expired: %v", err)
		}
		tried := NewToken(time.Minute)
		for range 5 {
			_ = tried.Check("")
		}
		if err := tried.Check(tried.String()); !errors.Is(err, ErrToken) {
			t.Errorf("after five wrong ones: %v", err)
		}
	})
}
