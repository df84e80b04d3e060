package rendezvous

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/hvctl/hvctl/migrate/transport"
)

var quiet = slog.New(slog.DiscardHandler)

func identity(t *testing.T) *transport.Identity {
	t.Helper()
	id, err := transport.LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// side is a gate that waits, and who may come.
type side struct {
	l       *net.TCPListener
	token   *transport.Token
	here    transport.Options // of the gate
	allowed transport.Options // of the destination
	granted chan Grant
	err     error // when granted is closed
}

func newSide(t *testing.T) *side {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	a, b := identity(t), identity(t)
	s := &side{
		l: l.(*net.TCPListener), token: transport.NewToken(time.Minute), granted: make(chan Grant, 1),
		here:    transport.Options{Identity: a, Allow: []string{b.Fingerprint()}},
		allowed: transport.Options{Identity: b, Allow: []string{a.Fingerprint()}},
	}
	g := &Gate{Names: []string{"web"}, Options: s.here, Token: s.token.Check, Log: quiet}
	go func() {
		defer close(s.granted)
		to, err := g.Wait(t.Context(), s.l)
		if s.err = err; err == nil {
			s.granted <- to
		}
	}()
	return s
}

func (s *side) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (s *side) ask(t *testing.T, r Request, o transport.Options) error {
	return Ask(t.Context(), s.dial(t), r, o)
}

// Whoever has not the key, the name and the token is not let in, and the next one
// who has them is.
func TestOnlyWhoIsMeantIsLetIn(t *testing.T) {
	s := newSide(t)
	key := NewKey()
	right := Request{VM: "web", Token: s.token.String(), Key: key}
	stranger := transport.Options{Identity: identity(t), Allow: s.allowed.Allow}
	if err := s.ask(t, right, stranger); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("a stranger with the token got an answer: %v", err)
	}
	wrong := right
	wrong.Token = "guessed"
	if err := s.ask(t, wrong, s.allowed); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "token") {
		t.Errorf("a wrong token: %v", err)
	}
	other := right
	other.VM = "db"
	if err := s.ask(t, other, s.allowed); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "of that name") {
		t.Errorf("another VM: %v", err)
	}
	for name, words := range map[string]string{
		"nothing": "", "noise": "GET / HTTP/1.1\r\n\r\n", "early": magic + "C" + strings.Repeat("x", 40), "no TLS": magic + "A" + strings.Repeat("\x00", 64), "kind": magic + "Z",
	} {
		c := s.dial(t)
		_, _ = c.Write([]byte(words)) // it may be cut off
		_ = c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c)
		if len(b) > 16 { // an alert of TLS, at most
			t.Errorf("%s was answered %q", name, b)
		}
	}
	if err := s.ask(t, right, s.allowed); err != nil {
		t.Fatal(err)
	}
	to, ok := <-s.granted
	if !ok || to.Key != key || to.Peer != s.allowed.Identity.Fingerprint() {
		t.Errorf("granted: %+v, %v", to, s.err)
	}
	c, err := net.Dial("tcp", s.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := s.l.Accept(); err != nil { // its connections come there
		t.Errorf("the listener is of no use any more: %v", err)
	}
}

func TestFiveWrongTokensCloseTheGate(t *testing.T) {
	s := newSide(t)
	for range maxWrong {
		_ = s.ask(t, Request{VM: "web", Token: "guessed"}, s.allowed)
	}
	if to, ok := <-s.granted; ok || s.err == nil || !strings.Contains(s.err.Error(), "wrong tokens") {
		t.Errorf("granted %+v, %v", to, s.err)
	}
}

// desk returns a desk that serves, and the end at which its owner asks.
func desk(t *testing.T, key Key) (addr string, owner *os.File, served chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	here, there, err := handoff.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = here.Close() })
	served = make(chan error, 1)
	go func() {
		served <- (&Desk{Listener: l.(*net.TCPListener), Key: key, Log: quiet}).Serve(there)
		_ = there.Close()
	}()
	return l.Addr().String(), here, served
}

// Strangers are not taken for the destination, whatever they have read on the way, and
// are not in its way.
func TestADeskTakesNobodyElsesConnections(t *testing.T) {
	key := NewKey()
	addr, owner, served := desk(t, key)
	offer := func(words []byte) (c net.Conn, answer []byte) {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := c.Write(words); err != nil {
			t.Fatal(err)
		}
		answer = make([]byte, 1)
		n, _ := io.ReadFull(c, answer)
		return c, answer[:n]
	}
	words := func(k Key, n uint64) []byte {
		t := k.ticket(n)
		return append([]byte(magic+"C"), t[:]...)
	}
	if _, got := offer(words(NewKey(), 1)); len(got) > 0 {
		t.Errorf("another key's ticket was answered %q", got)
	}
	real, got := offer(words(key, 5))
	if string(got) != "P" {
		t.Fatalf("the destination's was answered %q", got)
	}
	for _, n := range []uint64{5, 4} {
		if _, got := offer(words(key, n)); len(got) > 0 {
			t.Errorf("ticket %d after 5 was answered %q", n, got)
		}
	}
	if _, got := offer([]byte(magic + "A" + strings.Repeat("x", 40))); len(got) > 0 {
		t.Errorf("who asks too late was answered %q", got)
	}
	files, err := handoff.Ask(owner, "connect", 10*time.Second)
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	c, err := net.FileConn(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = files[0].Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := io.ReadFull(real, b); err != nil || string(b) != "Thello" {
		t.Errorf("the destination heard %q, %v", b, err)
	}
	next, _ := offer(words(key, 6))
	_ = owner.Close()
	if b, _ := io.ReadAll(next); string(b) != "E" {
		t.Errorf("at the end the destination heard %q", b)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A connection that has died while it was parked is not handed out.
func TestADeadConnectionIsPassedOver(t *testing.T) {
	key := NewKey()
	addr, owner, _ := desk(t, key)
	p := &Puller{Key: key, Log: quiet, Dial: func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", addr) }}
	ctx, cancel := context.WithCancel(t.Context())
	parked := make(chan struct{})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = p.park(ctx, 1, func() { close(parked) })
	}()
	<-parked
	cancel()
	<-gone
	taken := make(chan error, 1)
	go func() {
		_, err := p.park(t.Context(), 2, func() {})
		taken <- err
	}()
	files, err := handoff.Ask(owner, "connect", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_ = files[0].Close()
	if err := <-taken; err != nil {
		t.Errorf("the second: %v", err)
	}
}

// A puller whose source is away gives up, with the reason.
func TestAPullerHasAnEnd(t *testing.T) {
	away := errors.New("no route")
	p := &Puller{Log: quiet, Patience: time.Nanosecond, Dial: func(context.Context) (net.Conn, error) { return nil, away }}
	if err := p.Run(t.Context()); !errors.Is(err, away) {
		t.Error(err)
	}
}

// Nor does a source that talks nonsense, or hangs up, do more than cost a connection.
func TestAPullerOutlivesItsSource(t *testing.T) {
	hungUp := []error{io.EOF, io.ErrClosedPipe} // the second when it looks after the source has gone
	for words, want := range map[string][]error{"Z": {ErrProtocol}, "PP": {ErrProtocol}, "": hungUp, "P": hungUp} {
		here, there := net.Pipe()
		go func() {
			_, _ = io.CopyN(io.Discard, there, int64(len(magic)+1+len(ticket{})))
			_, _ = there.Write([]byte(words))
			_ = there.Close()
		}()
		p := &Puller{Log: quiet, Patience: time.Nanosecond, Dial: func(context.Context) (net.Conn, error) { return here, nil }}
		err := p.Run(t.Context())
		if !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) {
			t.Errorf("%q: %v", words, err)
		}
	}
}

// FuzzPull: a request is one that makes sense, or refused.
func FuzzPull(f *testing.F) {
	f.Add([]byte(`{"version":1,"vm":"web","token":"t","key":"00112233445566778899aabbccddeeff"}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"vm":"","token":"t","key":"xx"} `))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodePull(b)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		if r.VM == "" || len(r.VM) > 255 || len(r.Token) > 255 {
			t.Fatalf("accepted %+v", r)
		}
	})
}
