package microvm

import (
	"context"
	"net"
	"strings"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/transport"
)

// dialer returns what connects to another owner, by r.Dialer where the client has
// brought one.
func dialer(r workload.MigrateRequest) (func(context.Context) (net.Conn, error), error) {
	o, err := transportOptions(r.To)
	if err != nil {
		return nil, err
	}
	o.Through = r.Dialer
	return transport.Dial(r.To.Address, o)
}

func closeDialer(r workload.MigrateRequest) {
	if r.Dialer != nil {
		_ = r.Dialer.Close()
	}
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
