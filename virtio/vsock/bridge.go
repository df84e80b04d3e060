package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bridge connects other programs on the host with the guest's ports.
//
// To reach port 1234 of the guest, connect to the bridge's unix socket, send
// "CONNECT 1234\n" and read "OK <host port>\n"; then the stream is the guest's.
// Any other line, and a port that cannot be reached, closes the connection.
// When the guest connects to a host port P that nobody listens on in this
// process, the bridge connects to the unix socket <path>_P; if nobody listens
// there either, the guest is refused.
//
// Only the user that runs the VMM can connect to the socket.
type Bridge struct {
	d    *Device
	path string
	ln   *net.UnixListener
	rest *Listener
	wg   sync.WaitGroup
	ctx  context.Context
	end  context.CancelFunc
	max  chan struct{} // one element a connection to the unix socket
}

const (
	bridgeMax     = 256 // connections to the unix socket at a time
	helloTimeout  = 10 * time.Second
	helloMax      = 32 // bytes of the first line
	connectPrefix = "CONNECT "
)

// NewBridge makes the unix socket path and serves it until Close. A device has
// at most one bridge. A socket file that nobody listens on any more is
// replaced. Errors wrap ErrBridge.
func NewBridge(d *Device, path string) (*Bridge, error) {
	ln, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBridge, path, err)
	}
	b := &Bridge{d: d, path: path, ln: ln, max: make(chan struct{}, bridgeMax)}
	if b.rest, err = d.listenRest(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrBridge, err), ln.Close())
	}
	b.ctx, b.end = context.WithCancel(context.Background())
	b.wg.Go(b.serveHost)
	b.wg.Go(b.serveGuest)
	return b, nil
}

// listenUnix listens on path, open to the owner alone.
func listenUnix(path string) (*net.UnixListener, error) {
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != os.ModeSocket {
			return nil, errors.New("exists and is no socket")
		}
		c, err := net.Dial("unix", path)
		if err == nil {
			_ = c.Close()
			return nil, errors.New("another program listens there")
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return nil, err
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// listenRest takes the connections to ports that nobody listens on. They are
// not established: respond or abort.
func (d *Device) listenRest() (*Listener, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, net.ErrClosed
	case d.rest != nil:
		return nil, errors.New("the device has a bridge already")
	}
	d.rest = &Listener{d: d, port: anyPort}
	d.rest.wake.L = &d.mu
	return d.rest, nil
}

// Close ends the bridge and every connection through it.
func (b *Bridge) Close() error {
	b.end()
	err := b.ln.Close() // removes the file
	_ = b.rest.Close()
	b.wg.Wait()
	return err
}

// serveHost takes connections to the unix socket.
func (b *Bridge) serveHost() {
	for {
		select {
		case b.max <- struct{}{}:
		case <-b.ctx.Done():
			return
		}
		u, err := b.ln.AcceptUnix()
		if err != nil {
			<-b.max
			if b.ctx.Err() != nil {
				return
			}
			b.d.log.Warn("vsock bridge stops", "path", b.path, "err", err)
			return
		}
		b.wg.Go(func() {
			defer func() { <-b.max }()
			b.toGuest(u)
		})
	}
}

// toGuest serves one connection to the unix socket.
func (b *Bridge) toGuest(u *net.UnixConn) {
	defer u.Close()
	stop := context.AfterFunc(b.ctx, func() { _ = u.Close() })
	defer stop()
	_ = u.SetDeadline(time.Now().Add(helloTimeout))
	port, err := readHello(u)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, helloTimeout)
	defer cancel()
	c, err := b.d.Dial(ctx, port)
	if err != nil {
		return
	}
	defer c.Close()
	if _, err := fmt.Fprintf(u, "OK %d\n", c.key.host); err != nil {
		return
	}
	_ = u.SetDeadline(time.Time{})
	b.join(u, c)
}

// readHello reads the first line, and nothing beyond it.
func readHello(r io.Reader) (port uint32, err error) {
	var line strings.Builder
	var b [1]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return 0, err
		}
		if b[0] == '\n' {
			break
		}
		if line.Len() == helloMax {
			return 0, errors.New("line too long")
		}
		line.WriteByte(b[0])
	}
	n, ok := strings.CutPrefix(line.String(), connectPrefix)
	if !ok {
		return 0, errors.New("no CONNECT")
	}
	p, err := strconv.ParseUint(n, 10, 32)
	return uint32(p), err
}

// serveGuest takes the guest's connections; the device bounds their number.
func (b *Bridge) serveGuest() {
	for {
		c, err := b.rest.accept()
		if err != nil {
			return
		}
		b.wg.Go(func() { b.toHost(c) })
	}
}

// toHost serves one connection of the guest.
func (b *Bridge) toHost(c *Conn) {
	defer c.Close()
	dialer := net.Dialer{Timeout: helloTimeout}
	u, err := dialer.DialContext(b.ctx, "unix", fmt.Sprintf("%s_%d", b.path, c.key.host))
	b.d.mu.Lock()
	switch {
	case c.err != nil: // the guest gave up
	case err != nil:
		b.d.abort(c, unix.ECONNREFUSED)
	default:
		b.d.respond(c)
	}
	b.d.mu.Unlock()
	if err == nil {
		defer u.Close()
		b.join(u.(*net.UnixConn), c)
	}
}

// join copies both ways until both ends are over, or one is broken.
func (b *Bridge) join(u *net.UnixConn, c *Conn) {
	stop := context.AfterFunc(b.ctx, func() {
		_ = u.Close()
		_ = c.Close()
	})
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := io.Copy(u, c); err != nil {
			_ = u.Close()
			_ = c.Close()
			return
		}
		_ = u.CloseWrite()
	}()
	if _, err := io.Copy(c, u); err != nil {
		_ = u.Close()
		_ = c.Close()
	} else {
		_ = c.CloseWrite()
	}
	<-done
}
