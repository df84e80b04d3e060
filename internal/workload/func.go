package workload

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Func runs fn as a Process without a program: it ends with 0, or with 1 after
// the error was written to io.Err. It cannot be signalled; fn ends when what it
// reads or writes does.
func Func(io Stdio, fn func() error) Process {
	f := &function{done: make(chan struct{})}
	go func() {
		defer close(f.done)
		err := fn()
		f.exit.At = time.Now()
		if err != nil {
			f.exit.Code = 1
			if io.Err != nil {
				fmt.Fprintln(io.Err, err)
			}
		}
	}()
	return f
}

type function struct {
	done chan struct{}
	exit Exit
}

// Wait implements Process.
func (f *function) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-f.done:
		return f.exit, nil
	case <-ctx.Done():
		return Exit{}, context.Cause(ctx)
	}
}

// Signal implements Process.
func (f *function) Signal(context.Context, unix.Signal) error {
	return fmt.Errorf("%w: signals to what is no process", ErrUnsupported)
}

// Resize implements Process.
func (f *function) Resize(context.Context, uint16, uint16) error {
	return fmt.Errorf("%w: it has no terminal", ErrUnsupported)
}
