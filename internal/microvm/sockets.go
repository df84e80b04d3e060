package microvm

import (
	"context"
	"net"

	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/virtio/vsock"
)

// guestSockets hands the guest's vsock connections to the agent session.
type guestSockets struct{ control, stream net.Listener }

// newGuestSockets listens where the agent dials. It is called before the guest
// runs, so no connection is refused.
func newGuestSockets(d *vsock.Device) (guestSockets, error) {
	control, err := d.Listen(guestproto.ControlPort)
	if err != nil {
		return guestSockets{}, err
	}
	stream, err := d.Listen(guestproto.StreamPort)
	if err != nil {
		return guestSockets{}, err
	}
	return guestSockets{control, stream}, nil
}

// AcceptControl implements agent.Transport.
func (t guestSockets) AcceptControl(ctx context.Context) (net.Conn, error) {
	return accept(ctx, t.control)
}

// AcceptStream implements agent.Transport.
func (t guestSockets) AcceptStream(ctx context.Context) (net.Conn, error) {
	return accept(ctx, t.stream)
}

// accept ends when ctx does by closing the listener, which is of no use then.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	c, err := l.Accept()
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return c, err
}

// close ends both accepts, as when the guest is gone.
func (t guestSockets) close() {
	_ = t.control.Close()
	_ = t.stream.Close()
}
