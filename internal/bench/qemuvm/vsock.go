package qemuvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mdlayher/vsock"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// Listeners are the host's two vsock ports, to which guests' agents connect; one
// guest at a time.
type Listeners struct{ control, stream net.Listener }

// Listen opens them. It needs the module vhost_vsock.
func Listen() (*Listeners, error) {
	var l Listeners
	for port, at := range map[uint32]*net.Listener{guestproto.ControlPort: &l.control, guestproto.StreamPort: &l.stream} {
		var err error
		if *at, err = vsock.Listen(port, nil); err != nil {
			return nil, errors.Join(fmt.Errorf("QEMU's guest: listen on vsock port %d (needs the module vhost_vsock): %w", port, err), l.Close())
		}
	}
	return &l, nil
}

// Close closes them.
func (l *Listeners) Close() error {
	var errs []error
	for _, p := range []net.Listener{l.control, l.stream} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// AcceptControl implements agent.Transport.
func (l *Listeners) AcceptControl(ctx context.Context) (net.Conn, error) {
	return accept(ctx, l.control)
}

// AcceptStream implements agent.Transport.
func (l *Listeners) AcceptStream(ctx context.Context) (net.Conn, error) { return accept(ctx, l.stream) }

// accept ends with ctx; the listener stays usable.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	type deadliner interface{ SetDeadline(time.Time) error }
	d := l.(deadliner) //nolint:forcetypeassert // both are *vsock.Listener
	if err := d.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = d.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c, err := l.Accept()
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return c, err
}
