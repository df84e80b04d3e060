package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hvctl/hvctl/container/program"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// runHooks runs hooks one after the other, with state as their input: in the
// container that in is about, or outside when it is nil.
func (r *Runtime) runHooks(ctx context.Context, name string, hooks []specs.Hook, state []byte, in *record) error {
	for i := range hooks {
		if err := r.runHook(ctx, &hooks[i], state, in); err != nil {
			return fmt.Errorf("hooks.%s[%d] %s: %w", name, i, hooks[i].Path, err)
		}
	}
	return nil
}

// runHook runs one hook to its end. One that takes too long is killed with all
// it started.
func (r *Runtime) runHook(ctx context.Context, h *specs.Hook, state []byte, in *record) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	err := r.carryOut(ctx, h, state, in)
	if ctx.Err() != nil && h.Timeout != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return fmt.Errorf("took longer than %d s and was killed", *h.Timeout)
	}
	return err
}

func (r *Runtime) carryOut(ctx context.Context, h *specs.Hook, state []byte, in *record) error {
	stdin, state1, err := os.Pipe()
	if err != nil {
		return err
	}
	defer state1.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		stdin.Close()
		return err
	}
	defer out.Close()
	own := []*os.File{stdin, stdout}
	defer func() { closeAll(own) }()
	files := []*os.File{stdin, stdout, stdout}
	var t *program.Target
	j := new(joining)
	if in != nil {
		t = new(program.Target)
		if j, err = r.target(t, in, "", len(files), false); err != nil {
			return err
		}
		defer j.close()
		files = append(files, j.files...)
	}
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	run, err := program.Hook(h.Path, args, h.Env, t).Start(files, j.attr())
	closeAll(own)
	own = nil
	if err != nil {
		return err
	}
	defer run.Close()
	pid := run.PID
	for {
		told, nerr := run.Next()
		if errors.Is(nerr, io.EOF) {
			break
		}
		if err = errors.Join(err, nerr); told.Child > 0 {
			pid = told.Child
		}
	}
	if pid != run.PID {
		reap(run.PID)
	}
	said := make(chan string, 1)
	go func() { said <- tail(out) }()
	go func() {
		_, _ = state1.Write(state) // it need not read it
		state1.Close()
	}()
	// All it started, as it leads a session.
	stop := context.AfterFunc(ctx, func() { _ = unix.Kill(-pid, unix.SIGKILL) })
	st := reap(pid)
	stop()
	if err == nil && st != 0 {
		err = exitError(st)
		select {
		case text := <-said:
			if text != "" {
				err = fmt.Errorf("%w, output: %s", err, text)
			}
		case <-time.After(time.Second): // somebody that it left behind has the pipe
		}
	}
	return err
}

// exitError says how a process ended.
func exitError(st unix.WaitStatus) error {
	if st.Signaled() {
		return fmt.Errorf("killed by %v", st.Signal())
	}
	return fmt.Errorf("exit status %d", st.ExitStatus())
}

// reap waits for a child of ours, which may be somebody else's by now.
func reap(pid int) (st unix.WaitStatus) {
	for {
		if _, err := unix.Wait4(pid, &st, 0, nil); err != unix.EINTR {
			return st
		}
	}
}

// tail is the end of what r has.
func tail(r io.Reader) string {
	const keep = 2048
	var b []byte
	buf := make([]byte, keep)
	for {
		n, err := r.Read(buf)
		b = append(b, buf[:n]...)
		b = b[max(0, len(b)-keep):]
		if err != nil {
			return strings.TrimSpace(string(bytes.ToValidUTF8(b, []byte("?"))))
		}
	}
}
