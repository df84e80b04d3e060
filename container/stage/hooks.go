package stage

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/hvctl/hvctl/container/plan"
	"golang.org/x/sys/unix"
)

// hooks runs the container's own hooks one after the other.
func (s *stage) hooks(hooks []plan.Hook, state []byte) error {
	for i := range hooks {
		if err := RunHook(context.Background(), &hooks[i], state); err != nil {
			return fmt.Errorf("[%d] %s: %w", i, hooks[i].Path, err)
		}
	}
	return nil
}

// RunHook runs one hook to its end, with state as its input. A hook that takes
// too long is killed with all it started.
func RunHook(ctx context.Context, h *plan.Hook, state []byte) error {
	if h.TimeoutMillis > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(h.TimeoutMillis)*time.Millisecond)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = h.Env
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would be ours
	}
	cmd.Stdin = bytes.NewReader(state)
	out := new(tail)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second // a grandchild may hold the output
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && h.TimeoutMillis > 0 {
		return fmt.Errorf("took longer than %d s and was killed", h.TimeoutMillis/1000)
	}
	if text := strings.TrimSpace(string(out.b)); text != "" {
		return fmt.Errorf("%w, output: %s", err, text)
	}
	return err
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const keep = 2048
	t.b = append(t.b, p...)
	if len(t.b) > keep {
		t.b = append(t.b[:0], t.b[len(t.b)-keep:]...)
	}
	return len(p), nil
}
