package control

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
)

// peerBuffer bounds what is kept for a client that reads slower than the
// workload writes.
const peerBuffer = 1 << 20

// Peer is the owner's end of a stream: one client.
type Peer struct {
	conn  net.Conn
	r     *bufio.Reader
	stall time.Duration

	mu     sync.Mutex
	cond   *sync.Cond
	out    []byte // encoded frames to be written
	last   bool   // nothing is to follow out
	gone   bool
	done   chan struct{} // the writer has ended, conn is closed
	window int           // bytes of stdin the client may still send
	heard  time.Time     // when the client last said that it is alive
}

// NewPeer starts to serve the stream on conn, which it owns from now on. r
// has what was read from conn already; nil: nothing.
func NewPeer(conn net.Conn, r *bufio.Reader) *Peer {
	return newPeer(conn, r, StallTimeout)
}

func newPeer(conn net.Conn, r *bufio.Reader, stall time.Duration) *Peer {
	if r == nil {
		r = bufio.NewReaderSize(conn, 4096)
	}
	p := &Peer{conn: conn, r: r, stall: stall, done: make(chan struct{}), window: StdinWindow}
	p.cond = sync.NewCond(&p.mu)
	go p.write()
	return p
}

// Output sends b, which it does not keep, as frames of type typ. It blocks
// while the client is slow, and returns ErrGone when it has gone or made no
// progress for StallTimeout.
func (p *Peer) Output(typ byte, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), outputPiece)
		p.mu.Lock()
		for !p.gone && !p.last && len(p.out)+n+headerLen > peerBuffer {
			p.cond.Wait()
		}
		if p.gone || p.last {
			p.mu.Unlock()
			return ErrGone
		}
		p.out = appendFrame(p.out, typ, b[:n])
		p.mu.Unlock()
		p.cond.Broadcast()
		b = b[n:]
	}
	return nil
}

// Credit tells the client that n more bytes of its input were read. It does
// not block.
func (p *Peer) Credit(n int) {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	p.mu.Lock()
	p.window += n
	if !p.gone && !p.last {
		p.out = appendFrame(p.out, FrameCredit, b[:])
	}
	p.mu.Unlock()
	p.cond.Broadcast()
}

// Exit sends the last frame, how the process ended. Close or Wait follows.
func (p *Peer) Exit(e workload.Exit) { p.finish(FrameExit, e) }

// Fail sends err as the last frame.
func (p *Peer) Fail(err error) {
	_, body := encodeError(err)
	p.finish(FrameError, body)
}

func (p *Peer) finish(typ byte, v any) {
	b, err := json.Marshal(v)
	if err != nil || len(b) > maxPayload {
		typ, b = FrameError, []byte(`{"error":"the result is too long","code":"internal"}`)
	}
	p.mu.Lock()
	if !p.gone && !p.last {
		p.out = appendFrame(p.out, typ, b)
		p.last = true
	}
	p.mu.Unlock()
	p.cond.Broadcast()
}

// Done is closed when everything was written, or the client is gone, and the
// connection is closed.
func (p *Peer) Done() <-chan struct{} { return p.done }

// Close drops the client at once.
func (p *Peer) Close() {
	p.mu.Lock()
	p.gone = true
	p.mu.Unlock()
	p.cond.Broadcast()
	_ = p.conn.Close()
}

// write moves p.out to the connection until the last frame or an error.
func (p *Peer) write() {
	defer close(p.done)
	defer p.Close()
	var spare []byte
	for {
		p.mu.Lock()
		for len(p.out) == 0 && !p.gone && !p.last {
			p.cond.Wait()
		}
		if p.gone || len(p.out) == 0 {
			p.mu.Unlock()
			return
		}
		b := p.out
		p.out = spare[:0]
		p.mu.Unlock()
		p.cond.Broadcast() // there is room again: at most twice peerBuffer is held
		for rest := b; len(rest) > 0; {
			_ = p.conn.SetWriteDeadline(time.Now().Add(p.stall))
			n, err := p.conn.Write(rest[:min(len(rest), maxPayload)])
			rest = rest[n:]
			if errors.Is(err, os.ErrDeadlineExceeded) && (n > 0 || p.alive()) {
				continue
			}
			if err != nil {
				return
			}
		}
		spare = b
		if cap(spare) > outputPiece*2 {
			spare = nil // a burst is no reason to keep a megabyte
		}
	}
}

// alive tells whether the client was heard of within the time to stall.
func (p *Peer) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.gone && time.Since(p.heard) < p.stall
}

// Input is what a client asks for over its stream.
type Input struct {
	Stdin      func(b []byte) // b is the callee's to keep; Credit is due when it was read
	StdinClose func()
	Resize     func(columns, rows uint16)
	Signal     func(sig int)
}

// Serve reads the client's frames and calls in's functions, nil ones
// excepted, until the client goes away. detached tells whether it said so. An
// error wraps ErrProtocol; the client is dropped then.
func (p *Peer) Serve(in Input) (detached bool, err error) {
	var buf []byte
	for {
		typ, b, err := readFrame(p.r, &buf)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return false, nil
		}
		if err == nil && typ == FrameDetach {
			return true, nil
		}
		if err == nil {
			err = p.input(in, typ, b)
		}
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				return false, nil // the connection broke
			}
			p.Fail(err)
			return false, err
		}
	}
}

func (p *Peer) input(in Input, typ byte, b []byte) error {
	switch typ {
	case FrameStdin:
		p.mu.Lock()
		p.window -= len(b)
		over := p.window < 0
		p.mu.Unlock()
		if over {
			return fmt.Errorf("%w: more than %d bytes of standard input without credit", ErrProtocol, StdinWindow)
		}
		if in.Stdin == nil {
			p.Credit(len(b)) // nobody reads it: thrown away
		} else {
			in.Stdin(append([]byte(nil), b...))
		}
	case FrameAlive:
		p.mu.Lock()
		p.heard = time.Now()
		p.mu.Unlock()
	case FrameStdinClose:
		if in.StdinClose != nil {
			in.StdinClose()
		}
	case FrameResize:
		if len(b) != 4 {
			return fmt.Errorf("%w: resize frame of %d bytes", ErrProtocol, len(b))
		}
		if in.Resize != nil {
			in.Resize(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
		}
	case FrameSignal:
		if len(b) != 1 {
			return fmt.Errorf("%w: signal frame of %d bytes", ErrProtocol, len(b))
		}
		if in.Signal != nil {
			in.Signal(int(b[0]))
		}
	default:
		return fmt.Errorf("%w: frame type %d is the owner's to send", ErrProtocol, typ)
	}
	return nil
}
