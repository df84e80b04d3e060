package gdbstub

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"
)

// Address is where a client is waited for, as the user writes it.
type Address struct {
	Network string // "tcp" or "unix"
	Addr    string // a loopback address with a port, or a path
}

// ParseAddress reads "unix:PATH", "PORT", ":PORT" or "HOST:PORT". The protocol
// knows no passwords and gives the guest away, so only addresses of this
// machine's loopback are taken.
func ParseAddress(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" || len(path) > 107 {
			return Address{}, fmt.Errorf("gdb address %q: want unix:PATH with a path of 1 to 107 bytes", s)
		}
		return Address{"unix", path}, nil
	}
	full := s
	if !strings.Contains(s, ":") {
		full = ":" + s
	}
	host, port, err := net.SplitHostPort(full)
	if err != nil || port == "" {
		return Address{}, fmt.Errorf("gdb address %q: want unix:PATH or [ADDRESS:]PORT", s)
	}
	if host == "" || host == "localhost" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return Address{}, fmt.Errorf("gdb address %q: only loopback addresses are served, for the protocol has no passwords; "+
			"from elsewhere, forward the port by ssh", s)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return Address{}, fmt.Errorf("gdb address %q: %w", s, err)
	}
	return Address{"tcp", net.JoinHostPort(host, port)}, nil
}

// Listen opens the address. A unix socket is for this user alone; one that a
// dead process has left is replaced.
func (a Address) Listen() (net.Listener, error) {
	if a.Network == "unix" {
		if c, err := net.Dial("unix", a.Addr); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("gdb address %s: somebody is listening there", a.Addr)
		}
		if st, err := os.Lstat(a.Addr); err == nil && st.Mode().Type() == os.ModeSocket {
			_ = os.Remove(a.Addr)
		}
	}
	l, err := net.Listen(a.Network, a.Addr)
	if err != nil {
		return nil, fmt.Errorf("gdb: %w", err)
	}
	if a.Network == "unix" {
		if err := os.Chmod(a.Addr, 0o600); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// Serve waits for clients, one after another, until ctx ends; it closes l. For
// each it asks attach for the target, which stands still from then on; first,
// when not nil, is the first client's.
func Serve(ctx context.Context, l net.Listener, first Target, attach func() (Target, error), log *slog.Logger) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()
	t := first
	for {
		conn, err := l.Accept()
		if err != nil {
			if t != nil {
				err = errors.Join(err, t.Detach())
			}
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		r := bufio.NewReaderSize(conn, 4096)
		if err := greeting(conn, r); err != nil {
			log.Warn("gdb: not a debugger", "err", err)
			_ = conn.Close()
			continue
		}
		if t == nil {
			if t, err = attach(); err != nil {
				log.Warn("gdb: not attached", "err", err)
				_ = conn.Close()
				continue
			}
		}
		log.Info("gdb: attached", "client", conn.RemoteAddr().String())
		err = serve(ctx, t, conn, r, log)
		_ = conn.Close()
		log.Info("gdb: detached", "err", err)
		t = nil
	}
}

// greetingTimeout is how long a client may take for its first byte.
const greetingTimeout = 10 * time.Second

// greeting makes sure that a client begins as a debugger does, before the guest
// is stopped for it.
func greeting(conn net.Conn, r *bufio.Reader) error {
	_ = conn.SetReadDeadline(time.Now().Add(greetingTimeout))
	b, err := r.Peek(1)
	if err != nil {
		return err
	}
	if !strings.ContainsRune("+-$", rune(b[0])) {
		return fmt.Errorf("%w: it begins with byte %#x", errProtocol, b[0])
	}
	return conn.SetReadDeadline(time.Time{})
}
