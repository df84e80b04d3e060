package main

import (
	"context"
	"errors"

	"github.com/hvctl/hvctl/container"
)

func cmdRun(a *app) (func([]string) (int, error), flagSet) {
	var f createFlags
	var detach, keep bool
	var s flagSet
	f.add(&s)
	s.onOff(&detach, "detach", "d", "return when the program runs")
	s.onOff(&keep, "keep", "", "do not delete the container when it has ended")
	s.ignored("no-subreaper", "accepted for runc's sake", true)
	return func(args []string) (int, error) {
		r, o, undo, err := a.prepare(&f, args[0])
		if err != nil {
			return 1, err
		}
		if detach {
			if _, err = r.Run(context.Background(), o); err != nil {
				undo()
			}
			return 0, err
		}
		started := false
		code, err := foreground(r, &o, keep, func() (*container.Proc, error) {
			p, err := r.Run(context.Background(), o)
			started = err == nil
			return p, err
		})
		if !started || !keep {
			undo()
		}
		return code, err
	}, s
}

// foreground starts a container, which start does, waits for it, and deletes it
// unless it is to be kept.
func foreground(r *container.Runtime, o *container.CreateOptions, keep bool, start func() (*container.Proc, error)) (int, error) {
	if o.Spec == nil {
		var err error
		if o.Spec, o.Config, err = container.Load(o.Bundle); err != nil {
			return 1, err
		}
	}
	sess, err := newSession(o.Spec.Process != nil && o.Spec.Process.Terminal, o.ConsoleSocket)
	if err != nil {
		return 1, err
	}
	o.Console = sess.socket()
	p, err := start()
	if err != nil {
		sess.close()
		return 1, err
	}
	code, err := sess.wait(p)
	if !keep {
		err = errors.Join(err, r.Delete(context.Background(), o.ID, true))
	}
	return code, err
}
