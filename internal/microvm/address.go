package microvm

import (
	"context"
	"net"
	"strings"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/transport"
)

// dialer returns what connects to another owner.
func dialer(e workload.Endpoint) (func(context.Context) (net.Conn, error), error) {
	o, err := transportOptions(e)
	if err != nil {
		return nil, err
	}
	return transport.Dial(e.Address, o)
}

// listen waits for other owners.
func listen(e workload.Endpoint) (net.Listener, error) {
	o, err := transportOptions(e)
	if err != nil {
		return nil, err
	}
	return transport.Listen(e.Address, o)
}

func transportOptions(e workload.Endpoint) (o transport.Options, err error) {
	if strings.HasPrefix(e.Address, "unix:") {
		return o, nil
	}
	o.Allow = e.Allow
	o.Identity, err = transport.LoadIdentity(e.Identity)
	return o, err
}
