package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hvctl/hvctl/migrate/handoff"
)

// A process that can make no sockets has another one connect for it: that one is
// told one address when it is started, and connects to nothing else. The two speak
// over the ends of handoff.Pair.

// dialGrace is how long a connection may take to be made.
const dialGrace = 30 * time.Second

// through dials by asking at the other end of f.
type through struct {
	mu sync.Mutex // one question at a time
	f  *os.File
}

func (t *through) dial(ctx context.Context) (net.Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	files, err := handoff.Ask(t.f, "connect", 2*dialGrace)
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the process that connects to the destination for us has ended")
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if len(files) != 1 {
		return nil, fmt.Errorf("%w: %d connections for one", handoff.ErrProtocol, len(files))
	}
	return net.FileConn(files[0])
}

// ServeDial connects to addr, "unix:PATH" or "HOST:PORT", whenever the other end of
// f asks for that, until it is closed.
func ServeDial(f *os.File, addr string) error {
	network := "tcp"
	path, local := strings.CutPrefix(addr, unixPrefix)
	if local {
		network, addr = "unix", path
	}
	for {
		if _, err := handoff.Hear(f, 0); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := answerDial(f, network, addr); err != nil {
			return err
		}
	}
}

func answerDial(f *os.File, network, addr string) error {
	c, err := net.DialTimeout(network, addr, dialGrace)
	if err != nil {
		return handoff.Tell(f, err.Error())
	}
	defer c.Close()
	file, err := c.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return handoff.Tell(f, err.Error())
	}
	defer file.Close()
	return handoff.Lend(f, file)
}
