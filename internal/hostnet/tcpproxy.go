package hostnet

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxTCP bounds the connections of one published port; more wait in the
	// kernel's backlog. The process's descriptor limit, of which the ports
	// share half, may lower it.
	maxTCP = 4096
	// fdsPerConn is what one connection costs: two sockets, and for each
	// direction the pipe that splice goes through.
	fdsPerConn = 6
	// dialTimeout is how long the instance may take to accept.
	dialTimeout = 10 * time.Second
	// acceptPause is the rest after an accept that failed for lack of
	// something (descriptors, memory): trying at once would only spin.
	acceptPause = 50 * time.Millisecond
)

// tcpProxy copies the connections of a published port to the instance.
type tcpProxy struct {
	ln     *net.TCPListener
	dial   func(context.Context) (Stream, error)
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	slots  chan struct{}
	wg     sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns map[Stream]struct{}
}

func serveTCP(ln *net.TCPListener, dial func(context.Context) (Stream, error), log *slog.Logger, ports int) *tcpProxy {
	return serveTCPMax(ln, dial, log, tcpLimit(ports))
}

func serveTCPMax(ln *net.TCPListener, dial func(context.Context) (Stream, error), log *slog.Logger, limit int) *tcpProxy {
	p := &tcpProxy{ln: ln, dial: dial, log: log, slots: make(chan struct{}, limit), conns: map[Stream]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Add(1)
	go p.accept()
	return p
}

// tcpLimit is how many connections each of the published ports may have.
func tcpLimit(ports int) int { return max(1, min(descriptors(ports)/fdsPerConn, maxTCP)) }

// descriptors is each port's share: half of the process's descriptors are for
// everything else, whoever floods the ports.
func descriptors(ports int) int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 16 * fdsPerConn
	}
	return int(min(r.Cur, 1<<30)) / 2 / max(1, ports)
}

func (p *tcpProxy) accept() {
	defer p.wg.Done()
	for {
		select {
		case p.slots <- struct{}{}:
		case <-p.ctx.Done():
			return
		}
		c, err := p.ln.AcceptTCP()
		if err != nil {
			<-p.slots
			if p.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			p.log.Debug("accept", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-p.ctx.Done():
			}
			continue
		}
		p.wg.Add(1)
		go func() {
			defer func() { <-p.slots; p.wg.Done() }()
			p.handle(c)
		}()
	}
}

func (p *tcpProxy) handle(client *net.TCPConn) {
	if !p.track(client) {
		return
	}
	defer p.untrack(client)
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	inst, err := p.dial(ctx)
	cancel()
	if err != nil {
		_ = client.SetLinger(0) // the client sees a reset, as if nobody listened
		return
	}
	if !p.track(inst) {
		return
	}
	defer p.untrack(inst)
	Splice(client, inst)
}

// Splice copies both ways until both ends have said all, or one breaks. It
// closes neither.
func Splice(a, b Stream) {
	done := make(chan struct{})
	go func() {
		pipe(b, a)
		close(done)
	}()
	pipe(a, b)
	<-done
}

// pipe copies src to dst (in the kernel, by splice, between sockets of its) and passes the end of
// data on. Each direction ends by itself: a connection closed one way goes on
// the other way.
func pipe(dst, src Stream) {
	if _, err := io.Copy(dst, src); err != nil {
		// One side is broken: nothing more can arrive, so end both.
		_ = src.SetLinger(0)
		_ = dst.SetLinger(0)
		_ = src.Close()
		_ = dst.Close()
		return
	}
	_ = dst.CloseWrite()
}

// track registers an open connection for close; false means too late.
func (p *tcpProxy) track(c Stream) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		_ = c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *tcpProxy) untrack(c Stream) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	_ = c.Close()
}

// close stops listening, ends every connection and waits for the goroutines.
func (p *tcpProxy) close() {
	p.mu.Lock()
	p.cancel()
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	_ = p.ln.Close()
	p.wg.Wait()
}
