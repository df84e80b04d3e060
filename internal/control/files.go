package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A request may bring open files (SCM_RIGHTS with its first bytes): an owner that
// is confined cannot open what its client can. A connection carries one request.

// maxFiles is how many files a request may bring.
const maxFiles = 64

// files are those that came with a connection and nobody has taken yet.
type files struct {
	mu  sync.Mutex
	got []*os.File
	oob [maxFiles*4 + unix.SizeofCmsghdr]byte
}

// read reads from c, and keeps the files that come along.
func (f *files) read(c *net.UnixConn, b []byte) (int, error) {
	n, oobn, _, _, err := c.ReadMsgUnix(b, f.oob[:])
	if oobn > 0 {
		f.keep(f.oob[:oobn])
	}
	if n == 0 && err == nil && len(b) > 0 {
		err = io.EOF
	}
	return max(n, 0), err // -1 with an error
}

func (f *files) keep(oob []byte) {
	messages, _ := unix.ParseSocketControlMessage(oob)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		for _, fd := range fds {
			f.got = append(f.got, os.NewFile(uintptr(fd), "of the client"))
		}
	}
}

// drop closes those that nobody took.
func (f *files) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.got {
		_ = g.Close()
	}
	f.got = nil
}

// connKey is the context key of a request's connection.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// take returns the n files that came with r, which are the caller's.
func take(r *http.Request, n int) ([]*os.File, error) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return nil, errors.New("no connection of ours")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.got) != n {
		return nil, fmt.Errorf("%w: %s wants %d open files to come with it (SCM_RIGHTS), not %d", ErrBadRequest, r.URL.Path, n, len(c.got))
	}
	got := c.got
	c.got = nil
	return got, nil
}

// send writes b, and files with its first byte.
func send(c *net.UnixConn, b []byte, files []*os.File) error {
	var fds []int
	for _, f := range files {
		if f == nil {
			return errors.New("a file that was to go along is not there")
		}
		fds = append(fds, int(f.Fd()))
	}
	if len(fds) > 0 {
		if _, _, err := c.WriteMsgUnix(b[:1], unix.UnixRights(fds...), nil); err != nil {
			return err
		}
		b = b[1:]
	}
	_, err := c.Write(b)
	return err
}
