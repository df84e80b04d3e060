package agent

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/guestproto"
)

const (
	// headerWait bounds how long a stream connection may take to say which
	// stream it is.
	headerWait = 10 * time.Second
	// maxGreeting bounds the stream connections that have not said so yet; the
	// one that has been silent for longest makes way.
	maxGreeting = 32
	// strayWait is how long after a process's exit its streams may still
	// connect.
	strayWait = 5 * time.Second
)

// IO are the standard streams of a process on the host's side. A nil field
// connects the process's descriptor to /dev/null in the guest.
type IO struct {
	// Stdin is read until its end, which the process then sees as the end of
	// its input. The session reads ahead. A Read that blocks for good keeps a
	// goroutine after the process has ended: the caller closes the source.
	Stdin io.Reader
	// Stdout and Stderr receive the output. A slow Write holds the process
	// up; after a failed one the rest of that stream is thrown away. Each is
	// written to by a goroutine of its own: one writer in both fields must
	// allow that. With a terminal everything goes to Stdout.
	Stdout, Stderr io.Writer
}

// stream is one connection the guest is expected to open, or has opened.
type stream struct {
	fd    uint8
	token guestproto.Token
	in    io.Reader
	out   io.Writer

	connected chan struct{} // closed when the guest connected, or never will
	done      chan struct{} // closed when all output has been written
	once      sync.Once

	// ended tells the guest where the input ended.
	ended func(bytes int64)

	mu         sync.Mutex
	conn       net.Conn // set when connected, until done
	sent       int64    // input bytes handed to conn
	inputEnded bool
}

func newStream(fd uint8, in io.Reader, out io.Writer) *stream {
	st := &stream{fd: fd, in: in, out: out, connected: make(chan struct{}), done: make(chan struct{})}
	_, _ = rand.Read(st.token[:]) // never fails: crypto/rand
	return st
}

// newStreams makes the streams that a process with these ends needs.
func newStreams(o IO, terminal bool) (list []*stream, tokens guestproto.Streams) {
	add := func(st *stream) {
		list = append(list, st)
		tokens[st.fd] = st.token
	}
	if terminal {
		if o.Stdin != nil || o.Stdout != nil {
			add(newStream(0, o.Stdin, o.Stdout))
		}
		return list, tokens
	}
	if o.Stdin != nil {
		add(newStream(0, o.Stdin, nil))
	}
	if o.Stdout != nil {
		add(newStream(1, nil, o.Stdout))
	}
	if o.Stderr != nil {
		add(newStream(2, nil, o.Stderr))
	}
	return list, tokens
}

// abandon gives up a stream that never connected.
func (st *stream) abandon() {
	st.once.Do(func() {
		close(st.connected)
		close(st.done)
	})
}

// run carries the bytes of a connected stream until both directions end.
func (st *stream) run(conn net.Conn) {
	started := false
	st.once.Do(func() { started = true })
	if !started {
		conn.Close()
		return
	}
	st.mu.Lock()
	st.conn = conn
	st.mu.Unlock()
	close(st.connected)
	if st.in != nil {
		go st.feed(conn)
	}
	// A stream without output ends when the guest closes it.
	out := st.out
	if out == nil {
		out = io.Discard
	}
	if _, err := io.Copy(out, conn); err != nil {
		_, _ = io.Copy(io.Discard, conn)
	}
	conn.Close()
	close(st.done)
}

// feed sends the input and then, through ended, where it ends.
func (st *stream) feed(conn net.Conn) {
	_, err := io.Copy(&inputWriter{st, conn}, st.in)
	if err == nil && st.out == nil { // for a terminal the end of the input ends nothing
		st.ended(st.endInput())
	}
}

// errInputEnded ends feed when Process.CloseStdin came first.
var errInputEnded = errors.New("input has ended")

// inputWriter counts what was sent.
type inputWriter struct {
	st   *stream
	conn net.Conn
}

func (w *inputWriter) Write(p []byte) (int, error) {
	w.st.mu.Lock()
	if w.st.inputEnded {
		w.st.mu.Unlock()
		return 0, errInputEnded
	}
	w.st.sent += int64(len(p))
	w.st.mu.Unlock()
	return w.conn.Write(p)
}

// endInput refuses further input and returns how much there was.
func (st *stream) endInput() int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.inputEnded = true
	return st.sent
}

// hangUp closes the connection, if there is one.
func (st *stream) hangUp() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.conn != nil {
		st.conn.Close()
	}
}

// serveStreams gives each stream connection to the stream whose token it
// names. Connections live until ctx ends, new ones come until accept does.
func (s *Session) serveStreams(ctx, accept context.Context) error {
	var wg sync.WaitGroup
	defer func() {
		// A stream may be held up by its writer, which nobody can interrupt.
		ended := make(chan struct{})
		go func() {
			wg.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}()
	var greeting greetings
	for {
		conn, err := s.transport.AcceptStream(accept)
		if err != nil {
			return err
		}
		greeting.add(conn)
		wg.Go(func() {
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			st := s.identify(conn)
			greeting.remove(conn)
			if st == nil {
				s.counters.BadStreams.Add(1)
				conn.Close()
				return
			}
			st.run(conn)
		})
	}
}

// greetings are the connections that have not said which stream they are, the
// oldest first. Any process in the guest can open them.
type greetings struct {
	mu    sync.Mutex
	conns []net.Conn
}

// add takes conn in and closes the oldest one when there are too many.
func (g *greetings) add(conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.conns) == maxGreeting {
		g.conns[0].Close() // whoever reads it takes care of the rest
		g.conns = slices.Delete(g.conns, 0, 1)
	}
	g.conns = append(g.conns, conn)
}

func (g *greetings) remove(conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns = slices.DeleteFunc(g.conns, func(c net.Conn) bool { return c == conn })
}

// identify reads a connection's header and takes the stream it names off the
// list. It returns nil when there is none.
func (s *Session) identify(conn net.Conn) *stream {
	var b [guestproto.StreamHeaderSize]byte
	// Some connections refuse this when the guest has hung up already, which
	// it may, having said all: what it said can be read all the same.
	_ = conn.SetReadDeadline(time.Now().Add(headerWait))
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return nil
	}
	h, err := guestproto.ParseStreamHeader(b)
	if err != nil {
		return nil
	}
	_ = conn.SetReadDeadline(time.Time{}) // as above
	s.mu.Lock()
	defer s.mu.Unlock()
	var found *stream
	for st := range s.streams {
		// All are compared, each in constant time: timing tells nothing
		// about a token.
		if subtle.ConstantTimeCompare(st.token[:], h.Token[:]) == 1 && st.fd == h.FD {
			found = st
		}
	}
	delete(s.streams, found)
	return found
}
