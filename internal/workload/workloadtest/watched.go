package workloadtest

import (
	"io"
	"strings"
	"sync"
)

// watched collects output and calls seen once, when it has want.
type watched struct {
	want string
	seen func()

	mu  sync.Mutex
	buf strings.Builder
}

// Write implements io.Writer.
func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(b)
	if w.seen != nil && strings.Contains(w.buf.String(), w.want) {
		go w.seen()
		w.seen = nil
	}
	return len(b), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func newPipe() (io.Reader, io.Writer) { return io.Pipe() }
