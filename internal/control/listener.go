package control

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// listener lets in only who may be here, and only so many.
type listener struct {
	*net.UnixListener
	peers chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if !allowed(c) {
			c.Close()
			continue
		}
		select {
		case l.peers <- struct{}{}:
			return &conn{UnixConn: c, leave: sync.OnceFunc(func() { <-l.peers })}, nil
		default:
			const busy = "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" +
				`{"error":"too many connections to this instance","code":"busy"}` + "\n"
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = io.WriteString(c, busy)
			c.Close()
		}
	}
}

// allowed asks the kernel who connected.
func allowed(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		ok = err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
	})
	return err == nil && ok
}

// conn gives its place back once, and keeps the open files that come with a
// request until its handler takes them.
type conn struct {
	*net.UnixConn
	leave func()
	files
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) { return c.read(c.UnixConn, b) }

// Close implements net.Conn.
func (c *conn) Close() error {
	c.leave()
	c.drop()
	return c.UnixConn.Close()
}
