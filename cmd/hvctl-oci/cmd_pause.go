package main

import (
	"context"

	"github.com/hvctl/hvctl/container"
)

// onOne makes a command without flags that does one thing with a container.
func onOne(do func(a *app, r *container.Runtime, id string) error) func(*app) (func([]string) (int, error), flagSet) {
	return func(a *app) (func([]string) (int, error), flagSet) {
		return func(args []string) (int, error) {
			r, err := a.runtime()
			if err != nil {
				return 1, err
			}
			return 0, do(a, r, args[0])
		}, nil
	}
}

func start(_ *app, r *container.Runtime, id string) error { return r.Start(context.Background(), id) }

func pause(a *app, r *container.Runtime, id string) error {
	if a.holdsVM(id) {
		return a.pauseVM(r, id, true)
	}
	return r.Pause(context.Background(), id)
}

func resume(a *app, r *container.Runtime, id string) error {
	if a.holdsVM(id) {
		return a.pauseVM(r, id, false)
	}
	return r.Resume(context.Background(), id)
}
