package microvm

import (
	"errors"
	"os"
	"sync"
)

// consoleMax bounds each of the two console files in bytes: a guest must not
// fill the host's disk.
const consoleMax = 1 << 20

// console keeps the end of what the guest's kernel said: path holds the latest
// part, path.1 the part before it. It also remembers the last bytes for error
// messages. Writes never fail: a console nobody can keep is not the guest's
// problem.
type console struct {
	path string

	mu   sync.Mutex
	f    *os.File
	size int
	tail []byte
}

// tailMax is what an error message can quote.
const tailMax = 4096

// newConsole makes the file anew, or goes on with the one that is there.
func newConsole(path string, goOn bool) (*console, error) {
	flags := os.O_CREATE | os.O_WRONLY
	if goOn {
		flags |= os.O_APPEND
	} else {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &console{path: path, f: f, size: int(st.Size())}, nil
}

// Write implements io.Writer.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail = append(c.tail, p...)
	if n := len(c.tail) - tailMax; n > tailMax { // seldom: copy once per tailMax bytes
		c.tail = append(c.tail[:0], c.tail[n:]...)
	}
	if c.f == nil {
		return len(p), nil
	}
	var err error
	if c.size+len(p) > consoleMax {
		err = c.rotate()
	}
	if err == nil {
		var n int
		n, err = c.f.Write(p)
		c.size += n
	}
	if err != nil { // a full disk, a directory that is gone: keep the tail only
		_ = c.f.Close()
		c.f = nil
	}
	return len(p), nil
}

func (c *console) rotate() error {
	if err := os.Rename(c.path, c.path+".1"); err != nil {
		return err
	}
	f, err := os.OpenFile(c.path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_ = c.f.Close()
	c.f, c.size = f, 0
	return nil
}

// Tail returns the last bytes the guest wrote.
func (c *console) Tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.tail[max(0, len(c.tail)-tailMax):])
}

// Close closes the file; later writes go to the tail only.
func (c *console) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.f == nil {
		return nil
	}
	err := c.f.Close()
	c.f = nil
	return errors.Join(err)
}
