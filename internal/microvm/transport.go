package microvm

import (
	"context"
	"net"

	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/virtio/vsock"
)

// transport hands the guest's vsock connections to the agent session.
type transport struct{ control, stream net.Listener }

// newTransport listens where the agent dials. It is called before the guest
// runs, so no connection is refused.
func newTransport(d *vsock.Device) (transport, error) {
	control, err := d.Listen(guestproto.ControlPort)
	if err != nil {
		return transport{}, err
	}
	stream, err := d.Listen(guestproto.StreamPort)
	if err != nil {
		return transport{}, err
	}
	return transport{control, stream}, nil
}

// AcceptControl implements agent.Transport.
func (t transport) AcceptControl(ctx context.Context) (net.Conn, error) {
	return accept(ctx, t.control)
}

// AcceptStream implements agent.Transport.
func (t transport) AcceptStream(ctx context.Context) (net.Conn, error) { return accept(ctx, t.stream) }

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
func (t transport) close() {
	_ = t.control.Close()
	_ = t.stream.Close()
}
