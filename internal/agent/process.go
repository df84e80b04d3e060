package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// Process is a process in the guest.
type Process struct {
	s       *Session
	id      string
	pid     int
	streams []*stream
	exited  chan struct{}
	exit    *guestproto.Exit // guarded by s.mu; set before exited is closed
}

// ID is the process's id.
func (p *Process) ID() string { return p.id }

// PID is the process's number in the guest, 0 after Attach.
func (p *Process) PID() int { return p.pid }

// Run prepares the guest and starts its first process. r.Process.Streams is
// filled in here. A program that cannot be started is a *StartError.
func (s *Session) Run(ctx context.Context, r guestproto.Run, o IO) (*Process, error) {
	return s.start(ctx, guestproto.MethodRun, &r.Process, &r, o)
}

// Exec starts a further process beside the first one.
func (s *Session) Exec(ctx context.Context, proc guestproto.Process, o IO) (*Process, error) {
	return s.start(ctx, guestproto.MethodExec, &proc, &proc, o)
}

// Copy moves files into or out of the workload's tree. What it returns is
// waited for like a process, which takes no signals.
func (s *Session) Copy(ctx context.Context, c guestproto.Copy, o IO) (*Process, error) {
	p, err := s.register(c.ID, o, false, &c.Streams)
	if err != nil {
		return nil, err
	}
	return s.started(ctx, p, guestproto.MethodCopy, &c)
}

// PackLayer copies the workload's writable layer to o.Stdout, as package upper packs it.
// The workload has to stand still (Suspend). What it returns is as Copy's.
func (s *Session) PackLayer(ctx context.Context, id string, o IO) (*Process, error) {
	return s.layer(ctx, guestproto.MethodPack, guestproto.Layer{ID: id}, o)
}

// FillLayer fills the writable layer from o.Stdin, before Run, which has to name the same
// place for it. What it returns is as Copy's.
func (s *Session) FillLayer(ctx context.Context, id string, u guestproto.Upper, o IO) (*Process, error) {
	return s.layer(ctx, guestproto.MethodFill, guestproto.Layer{ID: id, Upper: u}, o)
}

func (s *Session) layer(ctx context.Context, method string, l guestproto.Layer, o IO) (*Process, error) {
	p, err := s.register(l.ID, o, false, &l.Streams)
	if err != nil {
		return nil, err
	}
	return s.started(ctx, p, method, &l)
}

func (s *Session) start(ctx context.Context, method string, proc *guestproto.Process, params any, o IO) (*Process, error) {
	p, err := s.register(proc.ID, o, proc.Spec.Terminal, &proc.Streams)
	if err != nil {
		return nil, err
	}
	return s.started(ctx, p, method, params)
}

// started makes the call that starts p.
func (s *Session) started(ctx context.Context, p *Process, method string, params any) (*Process, error) {
	var started guestproto.Started
	if err := s.call(ctx, method, params, result(&started)); err != nil {
		s.forget(p)
		return nil, err
	}
	p.pid = started.PID
	return p, nil
}

// Attach takes over a process that was started through another session, before
// the machine was moved or restored. Its streams continue where they are;
// output that was on its way when the old connection broke is lost.
func (s *Session) Attach(ctx context.Context, id string, o IO) (*Process, error) {
	_, _, h, err := s.await(ctx)
	if err != nil {
		return nil, err
	}
	var state *guestproto.ProcessState
	for i := range h.Processes {
		if h.Processes[i].ID == id {
			state = &h.Processes[i]
		}
	}
	if state == nil {
		return nil, fmt.Errorf("%w: the guest did not name %q when it connected", ErrNoProcess, id)
	}
	a := guestproto.Attach{ID: id}
	p, err := s.register(id, o, state.Terminal, &a.Streams)
	if err != nil {
		return nil, err
	}
	if state.Exit != nil {
		for _, st := range p.streams {
			s.giveUp(st)
		}
		s.exited(*state.Exit)
		return p, nil
	}
	if err := s.call(ctx, guestproto.MethodAttach, a, nil); err != nil {
		s.forget(p)
		return nil, err
	}
	return p, nil
}

// register makes the process and its streams known before the guest can speak
// of them.
func (s *Session) register(id string, o IO, terminal bool, tokens *guestproto.Streams) (*Process, error) {
	if err := guestproto.CheckID(id); err != nil {
		return nil, err
	}
	p := &Process{s: s, id: id, exited: make(chan struct{})}
	p.streams, *tokens = newStreams(o, terminal)
	for _, st := range p.streams {
		st.ended = p.inputEnds
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
		return nil, fmt.Errorf("%w: the guest is gone", ErrClosed)
	default:
	}
	if s.procs[id] != nil {
		return nil, fmt.Errorf("%w: process id %s is in use", ErrState, id)
	}
	s.procs[id] = p
	for _, st := range p.streams {
		s.streams[st] = struct{}{}
	}
	return p, nil
}

// forget undoes register.
func (s *Session) forget(p *Process) {
	for _, st := range p.streams {
		s.giveUp(st)
	}
	s.mu.Lock()
	delete(s.procs, p.id)
	s.mu.Unlock()
}

// giveUp stops waiting for a stream, and ends it if it is there.
func (s *Session) giveUp(st *stream) {
	s.mu.Lock()
	delete(s.streams, st)
	s.mu.Unlock()
	st.abandon()
	st.hangUp()
}

// Wait waits until the process has ended and all of its output has been
// written, and returns how it ended. When the session ends first, the error
// wraps ErrClosed. Wait may be called again and returns the same.
func (p *Process) Wait(ctx context.Context) (guestproto.Exit, error) {
	select {
	case <-p.exited:
	case <-p.s.closed:
		select {
		case <-p.exited:
		default:
			return guestproto.Exit{}, fmt.Errorf("%w: before process %s did", ErrClosed, p.id)
		}
	case <-ctx.Done():
		return guestproto.Exit{}, context.Cause(ctx)
	}
	for _, st := range p.streams {
		if err := p.drain(ctx, st); err != nil {
			return guestproto.Exit{}, err
		}
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.s.procs[p.id] == p {
		delete(p.s.procs, p.id)
	}
	return *p.exit, nil
}

// drain waits for the end of one stream. The guest sends an exit after the
// last byte, but on another connection, which may be read first.
func (p *Process) drain(ctx context.Context, st *stream) error {
	if st.out == nil {
		p.s.giveUp(st) // input: nobody reads it any more
		return nil
	}
	stray := time.NewTimer(strayWait)
	defer stray.Stop()
	select {
	case <-st.connected:
	case <-stray.C:
		p.s.giveUp(st)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-st.done:
		return nil
	case <-p.s.closed:
		// The session reads its streams to their end unless it was told to
		// end: then a writer that takes nothing has no say any more.
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Signal sends a signal, by its Linux number.
func (p *Process) Signal(ctx context.Context, sig int) error {
	return p.s.call(ctx, guestproto.MethodSignal, guestproto.Signal{ID: p.id, Signal: sig}, nil)
}

// Resize sets the size of the process's terminal in characters.
func (p *Process) Resize(ctx context.Context, width, height uint16) error {
	return p.s.call(ctx, guestproto.MethodResize, guestproto.Resize{ID: p.id, Width: width, Height: height}, nil)
}

// CloseStdin ends the process's input before IO.Stdin does, or, on a terminal,
// types the end-of-file character.
func (p *Process) CloseStdin(ctx context.Context) error {
	c := guestproto.CloseStdin{ID: p.id}
	for _, st := range p.streams {
		if st.fd == 0 && st.in != nil && st.out == nil {
			c.Bytes = st.endInput()
		}
	}
	return p.s.call(ctx, guestproto.MethodCloseStdin, c, nil)
}

// inputEnds tells the guest that IO.Stdin has ended. A guest that is gone, or
// a process that has exited, need not know.
func (p *Process) inputEnds(bytes int64) {
	_ = p.s.call(context.Background(), guestproto.MethodCloseStdin, guestproto.CloseStdin{ID: p.id, Bytes: bytes}, nil)
}
