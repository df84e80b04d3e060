package main

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/guestproto"
)

// attachWait is how long a broken stream waits for the host to attach again
// while the host is connected, before its output is thrown away.
const attachWait = 10 * time.Second

var errDiscard = errors.New("stream is discarded")

// link is the host's end of one stream. It dials when first used, and after
// the connection broke waits for Attach to give it another token.
type link struct {
	fd     uint8
	dial   dialer
	online func() bool

	mu      sync.Mutex
	token   guestproto.Token // zero: discard
	conn    *os.File
	dialing bool // somebody is: a token is good for one connection
	broken  bool // the current token's connection failed
	closed  bool
	changed chan struct{} // closed and replaced whenever the above change
}

func newLink(fd uint8, token guestproto.Token, d dialer, online func() bool) *link {
	return &link{fd: fd, dial: d, online: online, token: token, changed: make(chan struct{})}
}

// attach gives the link another token.
func (l *link) attach(token guestproto.Token) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop()
	l.token, l.broken = token, false
	l.signal()
}

func (l *link) signal() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *link) drop() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}

// close ends the link: what was written is delivered, the rest fails.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop()
	l.closed = true
	l.signal()
}

// fail marks conn as broken.
func (l *link) fail(conn *os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == conn {
		l.drop()
		l.broken = true
	}
}

// get returns the connection, dialing if need be, or errDiscard.
func (l *link) get() (*os.File, error) {
	for {
		l.mu.Lock()
		token, changed := l.token, l.changed
		switch {
		case l.closed || token.IsZero():
			l.mu.Unlock()
			return nil, errDiscard
		case l.conn != nil:
			defer l.mu.Unlock()
			return l.conn, nil
		case l.dialing:
			l.mu.Unlock()
			<-changed
			continue
		case !l.broken:
			l.dialing = true
			l.mu.Unlock()
			l.connect(token)
			continue
		}
		l.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(attachWait):
			if l.online() {
				l.mu.Lock()
				if l.broken {
					l.token = guestproto.Token{}
				}
				l.mu.Unlock()
			}
		}
	}
}

// connect dials for token; a token that was replaced meanwhile loses.
func (l *link) connect(token guestproto.Token) {
	conn, err := l.dial(guestproto.StreamPort)
	if err == nil {
		hdr := guestproto.StreamHeader{FD: l.fd, Token: token}.Encode()
		_, err = conn.Write(hdr[:])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialing = false
	l.signal()
	switch {
	case err == nil && l.token == token && !l.closed:
		l.conn = conn
		return
	case l.token == token:
		l.broken = true
	}
	if conn != nil {
		conn.Close()
	}
}

// write delivers p, over as many connections as it takes; bytes of a discarded
// stream count as delivered.
func (l *link) write(p []byte) {
	for len(p) > 0 {
		conn, err := l.get()
		if err != nil {
			return
		}
		n, err := conn.Write(p)
		p = p[n:]
		if err != nil {
			l.fail(conn)
		}
	}
}

// stdio are the streams of one process.
type stdio struct {
	child  [3]*os.File // the child's ends; closed after the fork
	master *os.File    // the terminal, or nil
	stdin  *os.File    // where input goes: a pipe, the terminal, or nil
	out    []*os.File  // where output comes from
	links  [3]*link    // nil where the descriptor is /dev/null
	pumps  sync.WaitGroup

	closeInput sync.Once

	mu       sync.Mutex
	counted  *os.File // the connection that count is about
	count    int64    // input bytes that have reached the process
	ending   bool     // the host has said where the input ends:
	expected int64    // after this many bytes
}

// newStdio makes pipes, or a terminal of the workload's devpts.
func newStdio(p *guestproto.Process, c etcfiles.Creds, rootDir string, d dialer, online func() bool) (*stdio, error) {
	s := new(stdio)
	for i, t := range p.Streams {
		if !t.IsZero() && (i == 0 || !p.Spec.Terminal) {
			s.links[i] = newLink(uint8(i), t, d, online)
		}
	}
	var err error
	if p.Spec.Terminal {
		err = s.openTerminal(p, c, rootDir)
	} else {
		err = s.openPipes(c)
	}
	if err != nil {
		s.closeChild()
		s.closeOwn()
		return nil, err
	}
	return s, nil
}

func (s *stdio) openPipes(c etcfiles.Creds) error {
	for i := range s.child {
		if s.links[i] == nil {
			f, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
			if err != nil {
				return err
			}
			s.child[i] = f
			continue
		}
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return os.NewSyscallError("pipe2", err)
		}
		own, child := p[0], p[1]
		if i == 0 {
			own, child = child, own
		}
		s.child[i] = os.NewFile(uintptr(child), "child")
		// The process may open its streams again by name (/dev/stdout), so
		// the pipe belongs to its user.
		_ = unix.Fchown(child, int(c.UID), int(c.GID))
		if err := unix.SetNonblock(own, true); err != nil {
			unix.Close(own)
			return err
		}
		f := os.NewFile(uintptr(own), "pipe")
		if i == 0 {
			s.stdin = f
		} else {
			s.out = append(s.out, f)
		}
	}
	return nil
}

func (s *stdio) openTerminal(p *guestproto.Process, c etcfiles.Creds, rootDir string) error {
	fd, err := unix.Open(rootDir+"/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/pts/ptmx", Err: err}
	}
	s.master = os.NewFile(uintptr(fd), "ptmx")
	s.stdin, s.out = s.master, []*os.File{s.master}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return os.NewSyscallError("TIOCSPTLCK", err)
	}
	if b := p.Spec.ConsoleSize; b != nil {
		s.resize(uint16(min(b.Width, 1<<16-1)), uint16(min(b.Height, 1<<16-1)))
	}
	for i := range s.child {
		slave, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
		if err != nil {
			return os.NewSyscallError("TIOCGPTN", err)
		}
		f, err := os.OpenFile(rootDir+"/dev/pts/"+strconv.Itoa(int(slave)), os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return err
		}
		s.child[i] = f
	}
	return unix.Fchown(int(s.child[0].Fd()), int(c.UID), 5)
}

func (s *stdio) resize(w, h uint16) {
	if s.master == nil {
		return
	}
	rc, err := s.master.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: h, Col: w})
	})
}

// run starts the pumps. The child has its ends by now.
func (s *stdio) run() {
	s.closeChild()
	links := s.links[1:]
	if s.master != nil {
		links = s.links[:1]
	}
	i := 0
	for _, l := range links {
		if l == nil {
			continue
		}
		src := s.out[i]
		i++
		s.pumps.Go(func() { pumpOut(l, src) })
	}
	if s.master != nil && s.links[0] == nil {
		// A terminal that nobody watches must not fill up.
		s.pumps.Go(func() { pumpOut(newLink(0, guestproto.Token{}, nil, nil), s.master) })
	}
	if l := s.links[0]; l != nil {
		go s.pumpIn(l)
	}
}

// pumpOut moves output to the host until the last writer is gone, or, after
// the process has ended (a deadline says so), until there is nothing left.
func pumpOut(l *link, src *os.File) {
	// The host waits for the stream whether or not anything is written.
	_, _ = l.get()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		l.write(buf[:n])
		if err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			for n := readNow(src, buf); n > 0; n = readNow(src, buf) {
				l.write(buf[:n])
			}
		}
		return
	}
}

// pumpIn moves input from the host to the process.
func (s *stdio) pumpIn(l *link) {
	buf := make([]byte, 16<<10)
	for {
		conn, err := l.get()
		if err != nil {
			return
		}
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := s.stdin.Write(buf[:n]); err != nil {
				return // the process closed its input
			}
			s.arrived(conn, int64(n))
		}
		if err != nil {
			l.fail(conn)
		}
	}
}

// arrived counts input that has reached the process.
func (s *stdio) arrived(conn *os.File, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if conn != s.counted {
		s.counted, s.count = conn, 0
	}
	s.count += n
	s.endIfComplete()
}

// closeStdin serves MethodCloseStdin.
func (s *stdio) closeStdin(bytes int64) {
	if s.master != nil {
		_, _ = s.master.Write([]byte{4}) // ^D, the usual VEOF
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending, s.expected = true, bytes
	s.endIfComplete()
}

// endIfComplete closes the process's input when the host has said that it ends
// and everything up to there has arrived. Preconditions: s.mu is held.
func (s *stdio) endIfComplete() {
	if s.ending && s.count >= s.expected {
		s.endInput()
	}
}

// endInput closes the process's input. A terminal stays open.
func (s *stdio) endInput() {
	if s.master == nil && s.stdin != nil {
		s.closeInput.Do(func() { s.stdin.Close() })
	}
}

// finish is called when the process has ended: what it wrote is delivered, and
// everything is closed. It returns when the host has been sent the last byte.
func (s *stdio) finish() {
	for _, f := range s.out {
		_ = f.SetReadDeadline(time.Unix(1, 0))
	}
	s.pumps.Wait()
	for _, l := range s.links {
		if l != nil {
			l.close()
		}
	}
	s.closeOwn()
}

func (s *stdio) closeChild() {
	for i, f := range s.child {
		if f != nil {
			f.Close()
			s.child[i] = nil
		}
	}
}

func (s *stdio) closeOwn() {
	for _, f := range s.out {
		f.Close()
	}
	s.endInput()
}

// attach gives every stream a new connection.
func (s *stdio) attach(tokens guestproto.Streams) {
	s.mu.Lock()
	s.counted, s.count, s.ending = nil, 0, false
	s.mu.Unlock()
	for i, l := range s.links {
		if l != nil {
			l.attach(tokens[i])
		}
	}
}
