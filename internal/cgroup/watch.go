package cgroup

import (
	"context"
	"errors"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// defaultPatience bounds waits whose context has no deadline: a process in
// uninterruptible sleep can neither be frozen nor killed.
const defaultPatience = 10 * time.Second

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, defaultPatience)
}

// watcher waits for changes of control files. The kernel tells of those in
// cgroup.events and memory.events as of modified files (cgroup-v2.rst,
// "Populated Notification").
type watcher struct{ f *os.File }

func watch(dir string, files ...string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &watcher{os.NewFile(uintptr(fd), "inotify")}
	for _, name := range files {
		if _, err := unix.InotifyAddWatch(fd, path.Join(dir, name), unix.IN_MODIFY|unix.IN_DELETE_SELF); err != nil {
			w.close()
			return nil, &os.PathError{Op: "inotify_add_watch", Path: path.Join(dir, name), Err: err}
		}
	}
	return w, nil
}

// wait returns after a change, or with ctx's cause.
func (w *watcher) wait(ctx context.Context) error {
	return readCtx(ctx, w.f, make([]byte, 4096))
}

func (w *watcher) close() { w.f.Close() }

// readCtx reads once from a descriptor on the netpoller.
func readCtx(ctx context.Context, f *os.File, b []byte) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	_, err := f.Read(b)
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

// awaitEvent waits until key in cgroup.events has the value.
func awaitEvent(ctx context.Context, dir, key string, value uint64) error {
	if is, err := eventIs(dir, key, value); is || err != nil { // most often it is so at once
		return err
	}
	w, err := watch(dir, "cgroup.events")
	if err != nil {
		return err
	}
	defer w.close()
	for {
		if is, err := eventIs(dir, key, value); is || err != nil {
			return err
		}
		if err := w.wait(ctx); err != nil {
			return err
		}
	}
}

func eventIs(dir, key string, value uint64) (bool, error) {
	m, err := readFlat(dir, "cgroup.events")
	return m[key] == value, err
}

// again calls try until it is done, fails, or ctx ends, for what v1 gives no
// notification of: at once, and then ever less often.
func again(ctx context.Context, try func() (done bool, err error)) error {
	pause := time.Millisecond
	t := time.NewTimer(pause)
	defer t.Stop()
	for {
		if done, err := try(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
		pause = min(2*pause, 50*time.Millisecond)
		t.Reset(pause)
	}
}

// timedOut tells that err is the end of a context's patience.
func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}
