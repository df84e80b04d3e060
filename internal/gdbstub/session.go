package gdbstub

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
)

// stallTimeout is how long a client may take to read an answer, so that one
// that hangs does not hold the guest for ever.
const stallTimeout = time.Minute

// Session serves one client.
type session struct {
	t    Target
	conn net.Conn
	w    *bufio.Writer
	log  *slog.Logger

	noAck   bool // QStartNoAckMode
	running bool
	cpu     int  // of registers and memory (Hg)
	last    Stop // what ? answers
	over    bool // detached or killed
}

// serve talks to a client until it goes away, detaches, or the guest ends. The
// guest stands still when it is called, and runs when it returns.
func serve(ctx context.Context, t Target, conn net.Conn, r *bufio.Reader, log *slog.Logger) error {
	s := &session{t: t, conn: conn, w: bufio.NewWriter(conn), log: log, last: Stop{Signal: SigTrap}}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	packets, done := make(chan packet), make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		for {
			p, err := readPacket(r)
			if err != nil {
				failed <- err
				return
			}
			select {
			case packets <- p:
			case <-done:
				return
			}
		}
	}()
	defer close(done)
	err := s.loop(packets, failed)
	if !s.over {
		err = errors.Join(err, s.t.Detach())
	}
	return err
}

func (s *session) loop(packets <-chan packet, failed <-chan error) error {
	for !s.over {
		stops := s.t.Stops()
		if !s.running {
			stops = nil
		}
		var err error
		select {
		case err = <-failed:
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return nil
			}
		case st := <-stops:
			err = s.stopped(st)
		case p := <-packets:
			err = s.packet(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// packet answers one packet.
func (s *session) packet(p packet) error {
	switch {
	case p.interrupt && s.running:
		if err := s.t.Halt(); err != nil {
			return err
		}
		select {
		case st := <-s.t.Stops(): // it had stopped by itself
			return s.stopped(st)
		default:
		}
		return s.stopped(Stop{CPU: s.cpu, Signal: SigInt})
	case p.interrupt:
		return nil
	case p.bad && !s.noAck:
		return s.raw("-")
	case p.bad:
		return fmt.Errorf("%w: a wrong checksum", errProtocol)
	}
	if !s.noAck {
		if err := s.raw("+"); err != nil {
			return err
		}
	}
	if s.running { // all-stop: a client waits for the stop
		return fmt.Errorf("%w: a packet while the guest runs", errProtocol)
	}
	reply, wait := s.answer(p.data)
	if wait {
		return nil
	}
	return s.send(reply)
}

// stopped tells the client that the guest stands still.
func (s *session) stopped(st Stop) error {
	s.running = false
	if st.Ended {
		s.over = true
		_ = s.send("W00")
		return s.t.Detach()
	}
	if err := s.t.Halt(); err != nil {
		return err
	}
	s.last, s.cpu = st, st.CPU
	return s.send(stopReply(st))
}

// stopReply is how a client is told.
func stopReply(st Stop) string {
	reply := fmt.Sprintf("T%02xthread:%x;", byte(st.Signal), st.CPU+1)
	if b := st.Break; b != nil {
		switch b.Kind {
		case SoftBreak:
			reply += "swbreak:;"
		case HardBreak:
			reply += "hwbreak:;"
		case WriteWatch:
			reply += fmt.Sprintf("watch:%x;", b.Addr)
		case ReadWatch:
			reply += fmt.Sprintf("rwatch:%x;", b.Addr)
		case AccessWatch:
			reply += fmt.Sprintf("awatch:%x;", b.Addr)
		}
	}
	return reply
}

func (s *session) raw(text string) error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(stallTimeout))
	if _, err := s.w.WriteString(text); err != nil {
		return err
	}
	return s.w.Flush()
}

func (s *session) send(data string) error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(stallTimeout))
	return writePacket(s.w, data)
}

// failure is the reply for an error. Numbers mean nothing to gdb; the text is
// what it shows, where it knows that form.
func (s *session) failure(err error) string {
	s.log.Debug("gdb: refused", "err", err)
	switch {
	case errors.Is(err, ErrUnsupported):
		return ""
	case errors.Is(err, ErrFull):
		return "E1c" // ENOSPC
	}
	return "E0e" // EFAULT
}

// okOr is the reply of a command without a result.
func (s *session) okOr(err error) string {
	if err != nil {
		return s.failure(err)
	}
	return "OK"
}

func hexOf(p []byte) string { return hex.EncodeToString(p) }
