package supervisor

import (
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
)

// hub connects one process with its log and any number of clients. Output
// goes to all of them in the order it was written; a client that is slow
// holds the process up, as a pipe would, but no longer than
// control.StallTimeout.
type hub struct {
	log   *instance.LogWriter // nil: none
	slog  *slog.Logger
	stdin *stdin // nil: the process has no input

	omu     sync.Mutex // one write at a time
	logLost bool

	mu    sync.Mutex
	peers []*control.Peer
	over  bool
}

func newHub(log *instance.LogWriter, withStdin bool, l *slog.Logger) *hub {
	h := &hub{log: log, slog: l}
	if withStdin {
		h.stdin = newStdin()
	}
	return h
}

// stdio is what the runtime connects the process to.
func (h *hub) stdio(terminal bool) workload.Stdio {
	s := workload.Stdio{Out: &output{h, instance.Stdout, control.FrameStdout}}
	if !terminal {
		s.Err = &output{h, instance.Stderr, control.FrameStderr}
	}
	if h.stdin != nil {
		s.In = h.stdin
	}
	return s
}

// add makes p hear the output from now on; false: the process has ended.
func (h *hub) add(p *control.Peer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return false
	}
	if slices.Contains(h.peers, p) {
		return true
	}
	h.peers = append(h.peers, p)
	return true
}

func (h *hub) remove(p *control.Peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, q := range h.peers {
		if p == q {
			// A new slice: a write may be walking the old one.
			h.peers = append(append([]*control.Peer(nil), h.peers[:i]...), h.peers[i+1:]...)
			return
		}
	}
}

// finish tells every client how the process ended and waits until they know
// or have proved too slow.
func (h *hub) finish(e workload.Exit) {
	for _, p := range h.end() {
		p.Exit(e)
	}
	h.drain()
}

// drop waits for clients that were told something else already.
func (h *hub) drop() {
	h.end()
	h.drain()
}

func (h *hub) end() []*control.Peer {
	h.closeStdin()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	return h.peers
}

func (h *hub) drain() {
	h.mu.Lock()
	peers := h.peers
	h.mu.Unlock()
	for _, p := range peers {
		<-p.Done() // bounded by StallTimeout per write
	}
}

func (h *hub) closeStdin() {
	if h.stdin != nil {
		h.stdin.close()
	}
}

func (h *hub) closeLog() {
	if h.log != nil {
		_ = h.log.Close() // every line was written when it came
	}
}

// output is the process's end of one stream.
type output struct {
	h      *hub
	stream string
	frame  byte
}

// Write implements io.Writer. It never fails: output nobody can take is no
// reason to disturb the process.
func (w *output) Write(b []byte) (int, error) {
	h := w.h
	h.omu.Lock()
	defer h.omu.Unlock()
	if h.log != nil {
		if err := h.append(w.stream, b); err != nil && !h.logLost {
			h.logLost = true // once: the host's disk is full, say
			h.slog.Error("output is missing from the log", "err", err)
		}
	}
	h.mu.Lock()
	peers := h.peers
	h.mu.Unlock()
	for _, p := range peers {
		if err := p.Output(w.frame, b); err != nil {
			h.remove(p)
		}
	}
	return len(b), nil
}

// append logs b in pieces that ReadLog takes back.
func (h *hub) append(stream string, b []byte) error {
	const piece = 32 << 10
	now := time.Now()
	for len(b) > 0 {
		n := min(len(b), piece)
		if err := h.log.Append(now, stream, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// stdin is the process's standard input: what any client sends, in the order
// it comes. What it holds is bounded by the clients' windows.
type stdin struct {
	mu     sync.Mutex
	cond   *sync.Cond
	queue  []piece
	closed bool
}

type piece struct {
	from *control.Peer
	b    []byte
}

func newStdin() *stdin {
	s := &stdin{}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// push adds b, which it keeps, sent by from.
func (s *stdin) push(from *control.Peer, b []byte) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		from.Credit(len(b))
		return
	}
	s.queue = append(s.queue, piece{from, b})
	s.mu.Unlock()
	s.cond.Broadcast()
}

// close makes the process read end of file after what it was sent.
func (s *stdin) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cond.Broadcast()
}

// Read implements io.Reader for the runtime.
func (s *stdin) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, errors.New("read into an empty buffer")
	}
	s.mu.Lock()
	for len(s.queue) == 0 && !s.closed {
		s.cond.Wait()
	}
	if len(s.queue) == 0 {
		s.mu.Unlock()
		return 0, io.EOF
	}
	q := &s.queue[0]
	n := copy(b, q.b)
	q.b = q.b[n:]
	from := q.from
	if len(q.b) == 0 {
		s.queue[0] = piece{}
		s.queue = s.queue[1:]
	}
	s.mu.Unlock()
	from.Credit(n)
	return n, nil
}
