package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

func (s *Server) attach(w http.ResponseWriter, r *http.Request) error {
	var q AttachRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	return s.stream(w, r, func(ctx context.Context, accept func() (*Peer, error)) error {
		return s.owner.Attach(ctx, q, accept)
	})
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) error {
	var q ExecRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if q.Process == nil || len(q.Process.Args) == 0 || q.Process.Args[0] == "" {
		return fmt.Errorf("%w: exec: process.args is empty", ErrBadRequest)
	}
	if q.Detach {
		id, err := s.owner.Exec(r.Context(), q, nil)
		return answer(w, ExecStarted{ID: id}, err)
	}
	return s.stream(w, r, func(ctx context.Context, accept func() (*Peer, error)) error {
		_, err := s.owner.Exec(ctx, q, accept)
		return err
	})
}

// stream runs serve, which upgrades the connection when it accepts.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, serve func(context.Context, func() (*Peer, error)) error) error {
	if r.Header.Get("Upgrade") != Protocol {
		return fmt.Errorf("%w: %s needs the header Upgrade: %s", ErrBadRequest, r.URL.Path, Protocol)
	}
	var peer *Peer
	// The request's context ends with the hijack: the stream has its own end.
	ctx := context.WithoutCancel(r.Context())
	err := serve(ctx, func() (*Peer, error) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return nil, err
		}
		_ = conn.SetDeadline(time.Time{})
		_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", Protocol)
		if err != nil {
			conn.Close()
			return nil, err
		}
		var br *bufio.Reader
		if rw.Reader.Buffered() > 0 {
			br = rw.Reader
		}
		peer = NewPeer(conn, br)
		return peer, nil
	})
	if peer == nil {
		return err
	}
	if err != nil {
		peer.Fail(err)
	}
	return nil
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	ready := func() {
		w.WriteHeader(http.StatusOK)
		_ = rc.Flush()
	}
	_ = s.owner.Events(r.Context(), ready, func(e Event) error {
		_ = rc.SetWriteDeadline(time.Now().Add(StallTimeout))
		if err := enc.Encode(e); err != nil {
			return err
		}
		return rc.Flush()
	})
	return nil // the status is sent; the end of the body says it all
}
