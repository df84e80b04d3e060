package microvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/workload"
)

// endpoint is where one owner waits for another one's VM.
type endpoint struct{ network, address string }

// parseEndpoint reads "unix:PATH" or "tcp:ADDRESS:PORT". What is sent is neither
// encrypted nor authenticated yet, so that TCP stays on this host.
func parseEndpoint(s string) (endpoint, error) {
	network, address, _ := strings.Cut(s, ":")
	switch network {
	case "unix":
		if !strings.HasPrefix(address, "/") {
			return endpoint{}, fmt.Errorf("%q: want unix: and an absolute path", s)
		}
	case "tcp":
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return endpoint{}, fmt.Errorf("%q: want tcp:ADDRESS:PORT: %w", s, err)
		}
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return endpoint{}, fmt.Errorf("%q: %w: connections between hosts would be neither encrypted nor authenticated; only addresses of this host's loopback are taken", s, workload.ErrUnsupported)
		}
	default:
		return endpoint{}, fmt.Errorf("%q: want unix:PATH or tcp:ADDRESS:PORT", s)
	}
	return endpoint{network, address}, nil
}

func (e endpoint) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, e.network, e.address)
}

// listen opens the endpoint, a unix socket to this user alone.
func (e endpoint) listen() (net.Listener, error) {
	l, err := net.Listen(e.network, e.address)
	if e.network != "unix" {
		return l, err
	}
	if errors.Is(err, unix.EADDRINUSE) { // left by one that was killed?
		if _, derr := net.Dial(e.network, e.address); errors.Is(derr, unix.ECONNREFUSED) {
			_ = os.Remove(e.address)
			l, err = net.Listen(e.network, e.address)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(e.address, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
