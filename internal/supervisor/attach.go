package supervisor

import (
	"context"
	"fmt"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// Attach implements control.Owner.
func (o *owner) Attach(_ context.Context, r control.AttachRequest, accept func() (*control.Peer, error)) error {
	if err := o.running(); err != nil {
		return err
	}
	p, err := accept()
	if err != nil {
		return err
	}
	o.attach(p, r)
	return nil
}

// attach serves one client of the first process until either ends.
func (o *owner) attach(p *control.Peer, r control.AttachRequest) {
	ctx := context.Background()
	serve(o.out, p, r.Stdin, r.StdinOnce, control.Input{
		Resize: func(columns, rows uint16) {
			_ = o.Resize(ctx, control.ResizeRequest{Columns: columns, Rows: rows})
		},
		Signal: func(sig int) {
			if err := o.Signal(ctx, "", unix.Signal(sig)); err != nil {
				o.log.Info("signal from an attached client", "signal", sig, "err", err)
			}
		},
	})
	// A client that came too late for the exit is told all the same.
	select {
	case <-o.cleaned:
		p.Exit(o.exit)
	default:
		p.Close()
	}
}

// serve connects p with h until the client goes away or the process ends.
func serve(h *hub, p *control.Peer, stdin, once bool, in control.Input) {
	if !h.add(p) {
		return
	}
	if stdin && h.stdin != nil {
		in.Stdin = func(b []byte) { h.stdin.push(p, b) }
		in.StdinClose = h.stdin.close
	}
	detached, err := p.Serve(in)
	if err != nil {
		h.slog.Warn("attached client", "err", err)
	}
	h.mu.Lock()
	over := h.over
	h.mu.Unlock()
	if over {
		return // finish waits for it: it stays in the list
	}
	h.remove(p)
	p.Close()
	if stdin && once && !detached && h.stdin != nil {
		h.stdin.close()
	}
}

// session is one running exec, or copy.
type session struct {
	id      string
	command string // of an exec
	out     *hub
	proc    workload.Process
	done    chan struct{} // its clients were told how it ended
}

// maxSessions bounds the exec sessions of one instance.
const maxSessions = 256

// Exec implements control.Owner.
func (o *owner) Exec(ctx context.Context, r control.ExecRequest, accept func() (*control.Peer, error)) (string, error) {
	if err := o.answering(); err != nil {
		return "", err
	}
	s, p, err := o.newSession(r.Stdin, accept)
	if err != nil {
		return "", err
	}
	proc, err := o.rt.Exec(ctx, r.Process, s.out.stdio(r.Process.Terminal))
	if err != nil {
		return "", err
	}
	s.proc, s.command = proc, r.Process.Args[0]
	o.keep(s)
	if p != nil {
		serve(s.out, p, r.Stdin, true, control.Input{
			Resize: func(columns, rows uint16) { _ = proc.Resize(ctx, columns, rows) },
			Signal: func(sig int) { _ = proc.Signal(ctx, unix.Signal(sig)) },
		})
	}
	return s.id, nil
}

// newSession makes a session and, unless accept is nil, its first client.
func (o *owner) newSession(stdin bool, accept func() (*control.Peer, error)) (*session, *control.Peer, error) {
	o.mu.Lock()
	n := len(o.sessions)
	o.mu.Unlock()
	if n >= maxSessions {
		return nil, nil, fmt.Errorf("%s: %w: %d exec sessions are running", o.cfg.Name, control.ErrBusy, n)
	}
	s := &session{id: newSessionID(), out: newHub(nil, stdin && accept != nil, o.log), done: make(chan struct{})}
	if accept == nil {
		return s, nil, nil
	}
	p, err := accept()
	if err != nil {
		return nil, nil, err
	}
	s.out.add(p) // before the process can write its first byte
	return s, p, nil
}

// keep makes a session that has begun known, and waits for its end.
func (o *owner) keep(s *session) {
	o.mu.Lock()
	o.sessions[s.id] = s
	o.mu.Unlock()
	if s.command != "" {
		o.event(control.EventExecStart, map[string]string{"exec": s.id, "command": s.command})
	}
	go o.reap(s)
}

// reap waits for a session to end.
func (o *owner) reap(s *session) {
	exit, err := s.proc.Wait(context.Background())
	if err != nil {
		exit = workload.Exit{Code: exitCode(err), Err: err.Error()}
	}
	o.mu.Lock()
	delete(o.sessions, s.id)
	o.mu.Unlock()
	if s.command != "" {
		o.event(control.EventExecExit, map[string]string{"exec": s.id, "exitCode": fmt.Sprint(exit.Code)})
	}
	s.out.finish(exit)
	close(s.done)
}

func (o *owner) session(id string) (*session, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.sessions[id]
	if s == nil {
		return nil, fmt.Errorf("%s: %w: exec session %q", o.cfg.Name, workload.ErrNotFound, id)
	}
	return s, nil
}
