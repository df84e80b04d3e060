package run

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/hvctl/hvctl/internal/bench/probe"
	"github.com/hvctl/hvctl/internal/workload"
)

// session is an instance of a chapter that talks with its program line by line.
type session struct {
	*Living
	name string
	in   *bufio.Reader
	free func() error
}

// open starts an instance. It is removed when ctx ends, and by close.
func open(ctx context.Context, w World, j Job) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, instanceTimeout)
	l, err := w.Start(ctx, j)
	if err != nil {
		cancel()
		return nil, err
	}
	return newSession(ctx, cancel, w.Name(), l), nil
}

func newSession(ctx context.Context, cancel func(), name string, l *Living) *session {
	always := context.WithoutCancel(ctx)
	remove := sync.OnceValue(func() error { return l.remove(always) })
	stop := context.AfterFunc(ctx, func() { _ = remove() })
	return &session{Living: l, name: name, in: bufio.NewReader(l.Out), free: func() error {
		defer cancel()
		stop()
		return remove()
	}}
}

// close kills and removes the instance. It may be called again.
func (s *session) close() error { return s.free() }

// read decodes the next line; io.EOF is the end of output.
func (s *session) read(v any) error {
	line, err := s.in.ReadBytes('\n')
	if err != nil {
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return io.EOF
		}
		return fmt.Errorf("%s: its output broke off at %q: %w", s.name, line, err)
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("%s: %s", s.name, strings.TrimSpace(string(line)))
	}
	return nil
}

// ready waits until the program says that it is.
func (s *session) ready() error {
	var l probe.Line
	if err := s.read(&l); err != nil {
		return fmt.Errorf("%s: wait for its program: %w", s.name, err)
	}
	if l.Ready == "" {
		return fmt.Errorf("%s: its program did not say that it is ready", s.name)
	}
	return nil
}

// goOn is the word that the program waits for.
func (s *session) goOn() error {
	_, err := s.In.Write([]byte("\n"))
	return err
}

// rest reads all output that is still to come.
func (s *session) rest() ([]byte, error) { return io.ReadAll(io.LimitReader(s.in, maxOutput)) }

// maxOutput bounds what is taken from an instance.
const maxOutput = 64 << 20

// end waits for the program, whose output has ended.
func (s *session) end() (workload.Exit, error) {
	_ = s.In.Close()
	return s.wait()
}
