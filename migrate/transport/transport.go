package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	unixPrefix = "unix:"
	// sealedPrefix begins addresses of unix sockets that connections of other hosts
	// are joined to, which carry TLS. They are only listened at.
	sealedPrefix = "unix+tls:"
	// userTimeout is how long sent bytes may stay unconfirmed before the kernel
	// gives a connection up.
	userTimeout = 10 * time.Second
)

// Options says who we are and who may be at the other end. A unix socket needs
// neither.
type Options struct {
	Identity *Identity
	Allow    []string // fingerprints
	// Through is an end of handoff.Pair, at whose other ServeDial serves the
	// address; nil: Dial connects itself.
	Through *os.File
}

func (o Options) check() error {
	if o.Identity == nil {
		return errors.New("TLS needs an identity")
	}
	return checkAllow(o.Allow)
}

// Conn is a connection whose other end is known.
type Conn struct {
	net.Conn
	tls  *tls.Conn // nil on a unix socket
	peer string
}

// Peer names the other end: its fingerprint, or "uid:N". It is empty before
// the handshake.
func (c *Conn) Peer() string {
	if c.tls == nil {
		return c.peer
	}
	if s := c.tls.ConnectionState(); s.HandshakeComplete {
		return fingerprintOf(s.PeerCertificates[0])
	}
	return ""
}

// Handshake completes the TLS handshake. Errors wrap ErrPeer when the peer is
// not on the allow list. Everything else on the connection would do it too, but
// without an end in time.
func (c *Conn) Handshake(ctx context.Context) error {
	if c.tls == nil {
		return nil
	}
	return c.tls.HandshakeContext(ctx)
}

// Client is the side of TLS that the source has, on a connection that is there
// already. c stays the caller's when there is an error.
func Client(ctx context.Context, c net.Conn, o Options) (*Conn, error) {
	return sealed(ctx, c, o, tls.Client)
}

// Server is Client for the other side.
func Server(ctx context.Context, c net.Conn, o Options) (*Conn, error) {
	return sealed(ctx, c, o, tls.Server)
}

func sealed(ctx context.Context, c net.Conn, o Options, side func(net.Conn, *tls.Config) *tls.Conn) (*Conn, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	t := side(tuned(c), o.Identity.config(o.Allow))
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS with %v: %w", c.RemoteAddr(), err)
	}
	return &Conn{Conn: t, tls: t}, nil
}

// Listen listens at addr: "unix:PATH", or "HOST:PORT" or "unix+tls:PATH" for TLS.
func Listen(addr string, o Options) (net.Listener, error) {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		return listenUnix(path)
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("listen at %s: %w", addr, err)
	}
	if path, ok := strings.CutPrefix(addr, sealedPrefix); ok {
		l, err := listenOwn(path)
		if err != nil {
			return nil, err
		}
		return &tlsListener{Listener: l, config: o.Identity.config(o.Allow)}, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &tlsListener{Listener: l, config: o.Identity.config(o.Allow)}, nil
}

// Dial returns a function that connects to addr, "unix:PATH" or "HOST:PORT",
// and makes sure that it is an allowed peer that answers.
func Dial(addr string, o Options) (func(context.Context) (net.Conn, error), error) {
	network, local := "tcp", false
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		network, addr, local = "unix", path, true
	}
	connect := func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, network, addr) }
	if o.Through != nil {
		connect = (&through{f: o.Through}).dial
	}
	if local {
		return func(ctx context.Context) (net.Conn, error) { return dialUnix(ctx, addr, connect) }, nil
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("dial %s: %w; want HOST:PORT or unix:PATH", addr, err)
	}
	config := o.Identity.config(o.Allow)
	return func(ctx context.Context) (net.Conn, error) {
		c, err := connect(ctx)
		if err != nil {
			return nil, err
		}
		t := tls.Client(tuned(c), config)
		if err := t.HandshakeContext(ctx); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("TLS with %s: %w", addr, err)
		}
		return &Conn{Conn: t, tls: t}, nil
	}, nil
}

// tuned makes a dead peer show within userTimeout.
func tuned(c net.Conn) net.Conn {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	if raw, err := t.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		})
	}
	return c
}

type tlsListener struct {
	net.Listener
	config *tls.Config
}

func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t := tls.Server(tuned(c), l.config)
	return &Conn{Conn: t, tls: t}, nil
}

// listenUnix listens at path, which only our own user may connect to.
func listenUnix(path string) (net.Listener, error) {
	l, err := listenOwn(path)
	if err != nil {
		return nil, err
	}
	return &unixListener{l}, nil
}

func listenOwn(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

type unixListener struct{ net.Listener }

// Inherit listens on f, which File of another process's listener at addr has
// returned. f stays the caller's.
func Inherit(f *os.File, addr string, o Options) (net.Listener, error) {
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(addr, unixPrefix) {
		return &unixListener{l}, nil
	}
	if err := o.check(); err != nil {
		return nil, errors.Join(fmt.Errorf("listen at %s: %w", addr, err), l.Close())
	}
	return &tlsListener{Listener: l, config: o.Identity.config(o.Allow)}, nil
}

// SetDeadline ends Accept then.
func (l *unixListener) SetDeadline(t time.Time) error { return setDeadline(l.Listener, t) }

// SetDeadline ends Accept then.
func (l *tlsListener) SetDeadline(t time.Time) error { return setDeadline(l.Listener, t) }

func setDeadline(l net.Listener, t time.Time) error {
	return l.(interface{ SetDeadline(time.Time) error }).SetDeadline(t) // a kernel's socket has it
}

// File returns a duplicate of a listener's socket, for Inherit. l is of Listen.
func File(l net.Listener) (*os.File, error) {
	switch l := l.(type) {
	case *unixListener:
		return File(l.Listener)
	case *tlsListener:
		return File(l.Listener)
	case interface{ File() (*os.File, error) }:
		return l.File()
	}
	return nil, fmt.Errorf("a listener of %T has no socket", l)
}

// Accept returns the next connection of an allowed user; others are closed.
func (l *unixListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		known, err := knownUser(c)
		if err == nil {
			return known, nil
		}
		_ = c.Close()
	}
}

func dialUnix(ctx context.Context, path string, connect func(context.Context) (net.Conn, error)) (net.Conn, error) {
	c, err := connect(ctx)
	if err != nil {
		return nil, err
	}
	known, err := knownUser(c)
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return known, nil
}

// knownUser wraps a unix connection whose peer is our user or root.
func knownUser(c net.Conn) (*Conn, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%w: no unix socket is at the other end", ErrPeer)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var serr error
	if err := raw.Control(func(fd uintptr) {
		cred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if serr != nil {
		return nil, os.NewSyscallError("getsockopt", serr)
	}
	if err := allowedUser(cred.Uid, uint32(os.Geteuid())); err != nil {
		return nil, err
	}
	return &Conn{Conn: c, peer: fmt.Sprintf("uid:%d", cred.Uid)}, nil
}

func allowedUser(peer, own uint32) error {
	if peer != own && peer != 0 {
		return fmt.Errorf("%w: user %d, want %d or root", ErrPeer, peer, own)
	}
	return nil
}
