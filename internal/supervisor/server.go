package supervisor

import (
	"context"
	"errors"
	"net"

	"github.com/hvctl/hvctl/internal/control"
)

// server is the control server with its serving goroutine.
type server struct {
	*control.Server
	socket *net.UnixListener
	done   chan struct{}
}

// serve opens the control socket and answers on it.
func (o *owner) serve() (*server, error) {
	l, err := o.inst.Listen()
	if err != nil {
		return nil, err
	}
	return o.serveOn(l), nil
}

// serveOn answers on an open control socket.
func (o *owner) serveOn(l *net.UnixListener) *server {
	s := &server{Server: control.NewServer(o), socket: l, done: make(chan struct{})}
	o.srv = s
	go func() {
		defer close(s.done)
		if err := s.Serve(l); err != nil && !errors.Is(err, net.ErrClosed) {
			o.log.Error("control socket", "err", err)
		}
	}()
	return s
}

// shutdown lets the last answers out.
func (s *server) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), answerGrace)
	defer cancel()
	_ = s.Shutdown(ctx) // only says that the time was up
	<-s.done
}
