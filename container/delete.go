package container

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Delete removes a container that is not running and runs its poststop hooks.
// With force it kills one that is, removes what an interrupted creation left,
// and is content when there is no such container.
//
// Errors to test for: ErrNotExist, ErrState.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	d, err := r.lockDir(id)
	if force && errors.Is(err, ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.close()
	rec, err := d.load()
	switch {
	case err != nil && !force:
		return err
	case rec == nil && !force:
		return fmt.Errorf("container %q: %w: its creation was interrupted; delete it with --force", id, ErrNotExist)
	case rec == nil: // nothing was made yet, or nobody can tell what
		return errors.Join(err, d.remove())
	}
	st := r.status(d, rec)
	if !force {
		if err := stepDelete.check(id, st); err != nil {
			return err
		}
	}
	if err := r.end(ctx, rec); err != nil {
		return fmt.Errorf("cannot delete container %q: %w", id, err)
	}
	if !rec.NoHooks {
		if spec, err := d.config(); err == nil && spec.Hooks != nil {
			r.poststop(ctx, spec.Hooks.Poststop, rec)
		}
	}
	return d.remove()
}

// end kills what is left of a container and removes its group.
func (r *Runtime) end(ctx context.Context, rec *record) error {
	g, err := r.ownGroup(rec)
	if err != nil && !isGone(err) {
		return err
	}
	if fd, err := rec.pidfd(); err == nil {
		defer unix.Close(fd)
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it may have ended
		if g != nil {
			if err := thawed(ctx, g); err != nil {
				return err
			}
		}
		if err := awaitExit(ctx, fd); err != nil {
			return err
		}
	}
	if g == nil {
		return nil
	}
	if err := g.Delete(ctx); err != nil && !isGone(err) {
		return err
	}
	return nil
}

// poststop runs the hooks that come after; that one fails is told and changes
// nothing (runtime.md, "Lifecycle", step 13).
func (r *Runtime) poststop(ctx context.Context, hooks []specs.Hook, rec *record) {
	for i := range hooks {
		if err := r.runHook(ctx, &hooks[i], rec.hookState(Stopped), nil); err != nil && r.Log != nil {
			r.Log.Warn("a poststop hook failed", "index", i, "path", hooks[i].Path, "err", err)
		}
	}
}
