package supervisor

import (
	"context"

	"github.com/hvctl/hvctl/internal/control"
)

// server is the control server with its serving goroutine.
type server struct {
	*control.Server
	done chan struct{}
}

// serve opens the control socket and answers on it.
func (o *owner) serve() (*server, error) {
	l, err := o.inst.Listen()
	if err != nil {
		return nil, err
	}
	s := &server{Server: control.NewServer(o), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		if err := s.Serve(l); err != nil {
			o.log.Error("control socket", "err", err)
		}
	}()
	return s, nil
}

// shutdown lets the last answers out.
func (s *server) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), answerGrace)
	defer cancel()
	_ = s.Shutdown(ctx) // only says that the time was up
	<-s.done
}
