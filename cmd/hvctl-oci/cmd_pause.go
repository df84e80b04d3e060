package main

import (
	"context"
	"errors"

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

// noCRIU is said for checkpoint and restore.
const noCRIU = "checkpoint and restore of containers are not supported by this runtime: it does not drive CRIU"

// cmdNoCRIU accepts whatever flags there are and says no.
func cmdNoCRIU(*app) (func([]string) (int, error), flagSet) {
	var s flagSet
	for _, name := range []string{
		"image-path", "work-path", "parent-path", "page-server", "status-fd", "manage-cgroups-mode", "empty-ns", "bundle", "pid-file",
		"console-socket", "lsm-profile", "lsm-mount-context",
	} {
		s.ignored(name, "not supported", false)
	}
	for _, name := range []string{
		"leave-running", "tcp-established", "tcp-skip-in-flight", "tcp-close", "ext-unix-sk", "shell-job", "lazy-pages", "file-locks",
		"pre-dump", "auto-dedup", "detach", "no-subreaper", "no-pivot", "link-remap",
	} {
		s.ignored(name, "not supported", true)
	}
	return func([]string) (int, error) { return 1, errors.New(noCRIU) }, s
}
