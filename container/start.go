package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Start lets the first process of a created container run the user's program.
// It returns when the program runs and the poststart hooks have ended; when one
// of these fails, the container is killed (runtime.md, "Lifecycle", step 9).
//
// Errors to test for: ErrNotExist, ErrState.
func (r *Runtime) Start(ctx context.Context, id string) error {
	d, rec, err := r.locked(id, stepStart)
	if err != nil {
		return err
	}
	defer d.close()
	spec, err := d.config()
	if err != nil {
		return err
	}
	conn, err := d.dial()
	if err != nil {
		return fmt.Errorf("cannot start container %q: %w", id, err)
	}
	defer conn.Close()
	c := &creation{r: r, dir: d, rec: rec, spec: spec}
	fd, err := rec.pidfd()
	if err != nil {
		return err
	}
	c.pidfd = os.NewFile(uintptr(fd), "pidfd")
	defer c.pidfd.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.CloseRead() })()
	err = c.release(conn, spec.Hooks)
	_ = os.Remove(d.file(startSocket)) // it only saves asking
	return err
}

// release says go to the stage and waits until it has become the program.
func (c *creation) release(conn io.ReadWriter, hooks *specs.Hooks) error {
	if err := plan.Send(conn, plan.Go, ""); err != nil {
		return fmt.Errorf("start the container's program: %w", err)
	}
	// The connection ends with the execve.
	switch k, text, err := plan.Receive(conn); {
	case err == nil && k == plan.Failed:
		return errors.New(text)
	case err == nil:
		return fmt.Errorf("the container's first process said %q", k)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("start the container's program: %w", err)
	}
	if hooks == nil || len(hooks.Poststart) == 0 {
		return nil
	}
	err := runHooks(context.Background(), "poststart", hooks.Poststart, c.rec.hookState(Running))
	if err != nil {
		_ = unix.PidfdSendSignal(int(c.pidfd.Fd()), unix.SIGKILL, nil, 0) // it may have ended
	}
	return err
}

// locked opens and locks a container and checks that the step is legal now.
func (r *Runtime) locked(id string, s step) (*dir, *record, error) {
	d, err := r.lockDir(id)
	if err != nil {
		return nil, nil, err
	}
	rec, err := d.load()
	if err == nil && rec == nil {
		err = fmt.Errorf("container %q: %w: its creation was interrupted; delete it with --force", id, ErrNotExist)
	}
	if err == nil {
		err = s.check(id, r.status(d, rec))
	}
	if err != nil {
		d.close()
		return nil, nil, err
	}
	return d, rec, nil
}

// config is the configuration that the container was made from.
func (d *dir) config() (*specs.Spec, error) {
	b, err := os.ReadFile(d.file(configFile))
	if err != nil {
		return nil, err
	}
	return Parse(b)
}
