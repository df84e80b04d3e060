package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hvctl/hvctl/container/program"
	"github.com/hvctl/hvctl/container/steps"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Start lets the first process of a created container run the user's program.
// It returns when the program runs and the poststart hooks have ended; when one
// of these fails, the container is killed (runtime.md, "Lifecycle", step 9).
//
// Errors to test for: ErrNotExist, ErrState.
func (r *Runtime) Start(ctx context.Context, id string) error {
	d, rec, err := r.locked(id)
	if err != nil {
		return err
	}
	defer d.close()
	spec := new(specs.Spec)
	if !rec.NoHooks {
		if spec, err = d.config(); err != nil {
			return err
		}
	}
	// Nobody else starts it meanwhile: that somebody listens is proof enough.
	conn, err := d.dial()
	defer func() { conn.Close() }() // another one, or none, in the end
	if err != nil || !d.ready() || r.paused(rec) {
		if err := stepStart.check(id, r.status(d, rec)); err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("cannot start container %q: %w", id, err)
	}
	fd, err := rec.pidfd()
	if err != nil {
		return err
	}
	c := &creation{r: r, dir: d, rec: rec, spec: spec, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	defer c.pidfd.Close()
	if spec.Hooks != nil && len(spec.Hooks.StartContainer) > 0 {
		conn.Close() // or it could not answer those who ask for the state meanwhile
		if err := c.hooks(ctx, "startContainer", Created, rec); err != nil {
			return err
		}
		if conn, err = d.dial(); err != nil {
			return fmt.Errorf("cannot start container %q: %w", id, err)
		}
	}
	defer context.AfterFunc(ctx, func() { _ = unix.Shutdown(int(conn.Fd()), unix.SHUT_RD) })()
	err = c.release(ctx, conn, func() (steps.Told, error) { return steps.ReadReport(conn) })
	_ = os.Remove(d.file(startSocket)) // it only saves asking
	return err
}

// release says go to the waiting process, after the startContainer hooks, and
// waits until it has become the program; then it runs the poststart hooks.
// next reads what it reports.
func (c *creation) release(ctx context.Context, conn io.Writer, next func() (steps.Told, error)) error {
	if _, err := conn.Write([]byte{program.Go}); err != nil {
		return fmt.Errorf("start the container's program: %w", err)
	}
	// The connection ends with the execve.
	switch _, err := next(); {
	case err == nil:
		return errors.New("start the container's program: it answered what nobody asked")
	case !errors.Is(err, io.EOF):
		return err
	}
	return c.hooks(ctx, "poststart", Running, nil)
}

// hooks runs one kind of hooks of a start. One that fails ends the container.
func (c *creation) hooks(ctx context.Context, kind string, st Status, in *record) error {
	if c.spec.Hooks == nil {
		return nil
	}
	list := c.spec.Hooks.StartContainer
	if kind == "poststart" {
		list = c.spec.Hooks.Poststart
	}
	if len(list) == 0 {
		return nil
	}
	err := c.r.runHooks(ctx, kind, list, c.rec.hookState(st), in)
	if err != nil {
		_ = unix.PidfdSendSignal(int(c.pidfd.Fd()), unix.SIGKILL, nil, 0) // it may have ended
	}
	return err
}

// locked opens and locks a container that was made.
func (r *Runtime) locked(id string) (*dir, *record, error) {
	d, err := r.lockDir(id)
	if err != nil {
		return nil, nil, err
	}
	rec, err := d.load()
	if err == nil && rec == nil {
		err = fmt.Errorf("container %q: %w: its creation was interrupted; delete it with --force", id, ErrNotExist)
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
