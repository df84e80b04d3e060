package control

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
)

// Stream is the client's end of a stream.
type Stream struct {
	conn net.Conn
	r    *bufio.Reader

	aliveEvery time.Duration

	wmu sync.Mutex // one frame at a time

	mu       sync.Mutex
	cond     *sync.Cond
	window   int
	over     bool // no more input is wanted
	detached bool
}

// NewStream speaks on conn, which it owns from now on. r has what was read
// from conn already; nil: nothing.
func NewStream(conn net.Conn, r *bufio.Reader) *Stream {
	if r == nil {
		r = bufio.NewReaderSize(conn, 32<<10)
	}
	s := &Stream{conn: conn, r: r, window: StdinWindow, aliveEvery: aliveEvery}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// Copy connects the stream with in, out and errOut until the process ends,
// and returns how it did. A nil in sends nothing and leaves the process's
// input open; end of in closes it. Writes that fail do not end the stream:
// the process goes on, its output is thrown away, as in a shell pipeline
// whose reader ignores it; the first such error is returned when the process
// has ended. A goroutine that reads in may outlive Copy: it is blocked in a
// read nobody can interrupt.
//
// Errors: ErrDetached after Detach, the owner's own error when the process
// was not started, one wrapping ErrGone when the owner vanished.
func (s *Stream) Copy(in io.Reader, out, errOut io.Writer) (workload.Exit, error) {
	defer s.conn.Close()
	if in != nil {
		go s.sendInput(in)
	}
	defer s.stopInput()
	var buf []byte
	var werr error
	alive := s.keepAlive()
	for {
		typ, b, err := readFrame(s.r, &buf)
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.detached {
				return workload.Exit{}, ErrDetached
			}
			return workload.Exit{}, fmt.Errorf("%w: the connection to the owner ended: %w", ErrGone, err)
		}
		switch typ {
		case FrameStdout, FrameStderr:
			w := out
			if typ == FrameStderr {
				w = errOut
			}
			alive.Reset(s.aliveEvery)
			if _, err := w.Write(b); err != nil && werr == nil {
				werr = err
			}
			alive.Stop()
		case FrameCredit:
			if len(b) != 4 {
				return workload.Exit{}, fmt.Errorf("%w: credit frame of %d bytes", ErrProtocol, len(b))
			}
			s.mu.Lock()
			s.window += int(binary.BigEndian.Uint32(b))
			s.mu.Unlock()
			s.cond.Broadcast()
		case FrameExit:
			var e workload.Exit
			if err := json.Unmarshal(b, &e); err != nil {
				return e, fmt.Errorf("%w: exit frame: %w", ErrProtocol, err)
			}
			return e, werr
		case FrameError:
			var e ErrorBody
			if err := json.Unmarshal(b, &e); err != nil {
				return workload.Exit{}, fmt.Errorf("%w: error frame: %w", ErrProtocol, err)
			}
			return workload.Exit{}, e.Err()
		default:
			return workload.Exit{}, fmt.Errorf("%w: frame type %d is the client's to send", ErrProtocol, typ)
		}
	}
}

// keepAlive is a stopped timer that, once it runs, tells the owner again and
// again that we are here: our reader pauses.
func (s *Stream) keepAlive() *time.Timer {
	var t *time.Timer
	t = time.AfterFunc(time.Hour, func() {
		if s.send(FrameAlive, nil) == nil {
			t.Reset(s.aliveEvery)
		}
	})
	t.Stop()
	return t
}

func (s *Stream) sendInput(in io.Reader) {
	buf := make([]byte, outputPiece)
	for {
		n, err := in.Read(buf)
		for b := buf[:n]; len(b) > 0; {
			m := s.take(len(b))
			if m == 0 || s.send(FrameStdin, b[:m]) != nil {
				return
			}
			b = b[m:]
		}
		if errors.Is(err, ErrDetached) {
			s.Detach()
			return
		}
		if err != nil {
			_ = s.send(FrameStdinClose, nil)
			return
		}
	}
}

// take waits for window and takes up to n bytes of it; 0: the stream is over.
func (s *Stream) take(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.window <= 0 && !s.over {
		s.cond.Wait()
	}
	if s.over {
		return 0
	}
	n = min(n, s.window)
	s.window -= n
	return n
}

func (s *Stream) stopInput() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.cond.Broadcast()
}

func (s *Stream) send(typ byte, b []byte) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	_, err := s.conn.Write(appendFrame(make([]byte, 0, headerLen+len(b)), typ, b))
	return err
}

// Resize tells the process's terminal its size.
func (s *Stream) Resize(columns, rows uint16) error {
	var b [4]byte
	binary.BigEndian.PutUint16(b[:], columns)
	binary.BigEndian.PutUint16(b[2:], rows)
	return s.send(FrameResize, b[:])
}

// Signal sends a signal to the process; SIGKILL ends the whole instance when
// the stream is that of its first process.
func (s *Stream) Signal(sig int) error { return s.send(FrameSignal, []byte{byte(sig)}) }

// Detach leaves the process alone; Copy returns ErrDetached. An input reader
// that returns ErrDetached does the same.
func (s *Stream) Detach() {
	s.mu.Lock()
	s.detached = true
	s.mu.Unlock()
	_ = s.send(FrameDetach, nil)
	_ = s.conn.Close()
}

// Close goes away without a word.
func (s *Stream) Close() error { return s.conn.Close() }
