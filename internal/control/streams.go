package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
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
	l := newLines(w)
	_ = s.owner.Events(r.Context(), l.ready, func(e Event) error { return l.send(e) })
	return nil // the status is sent; the end of the body says it all
}

func (s *Server) trace(w http.ResponseWriter, r *http.Request) error {
	var q workload.TraceRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if err := q.Check(); err != nil {
		return fmt.Errorf("%w: trace: %w", ErrBadRequest, err)
	}
	l := newLines(w)
	// The body has been read, so that a client that goes away ends the context.
	err := s.owner.Trace(r.Context(), q, l.ready, func(e workload.TraceExit) error { return l.send(e) })
	if l.begun {
		return nil
	}
	return err
}

// lines is an answer of many lines of JSON, sent as they come.
type lines struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	enc   *json.Encoder
	begun bool // the status is sent
}

func newLines(w http.ResponseWriter) *lines {
	return &lines{w: w, rc: http.NewResponseController(w), enc: json.NewEncoder(w)}
}

// ready says that there will be lines.
func (l *lines) ready() {
	l.begun = true
	l.w.Header().Set("Content-Type", "application/x-ndjson")
	l.w.WriteHeader(http.StatusOK)
	_ = l.rc.Flush()
}

func (l *lines) send(v any) error {
	_ = l.rc.SetWriteDeadline(time.Now().Add(StallTimeout))
	if err := l.enc.Encode(v); err != nil {
		return err
	}
	return l.rc.Flush()
}
