package instance

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// watcher wakes a reader when anything in a directory changes, or the lock of
// its owner is let go (the kernel closes it: IN_CLOSE_WRITE).
type watcher struct {
	f     *os.File
	buf   [4096]byte
	again bool // look once more after lockReleaseDelay

	mu      sync.Mutex
	stopped bool
}

func newWatcher(dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	const mask = unix.IN_MODIFY | unix.IN_MOVED_TO | unix.IN_CREATE | unix.IN_CLOSE_WRITE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "inotify_add_watch", Path: dir, Err: err}
	}
	return &watcher{f: os.NewFile(uintptr(fd), "inotify")}, nil
}

// wait returns after a change. The event of a closing lock file comes just
// before the kernel lets go of the lock, so that one is followed by a second,
// timed return.
func (w *watcher) wait() error {
	if w.again {
		w.again = false
		w.mu.Lock()
		if !w.stopped {
			_ = w.f.SetReadDeadline(time.Now().Add(lockReleaseDelay))
		}
		w.mu.Unlock()
	}
	n, err := w.f.Read(w.buf[:])
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return os.ErrDeadlineExceeded
	}
	_ = w.f.SetReadDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	w.again = err == nil && bytes.Contains(w.buf[:n], []byte(lockFile+"\x00"))
	return err
}

func (w *watcher) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	_ = w.f.SetReadDeadline(time.Unix(1, 0))
}

func (w *watcher) close() { _ = w.f.Close() }

// lockReleaseDelay is far longer than the kernel takes between the two steps.
const lockReleaseDelay = 50 * time.Millisecond

// AwaitChange returns when the instance's state is one that done accepts, is
// gone, or ctx is done. It does not poll.
func (i *Instance) AwaitChange(ctx context.Context, done func(workload.State) bool) error {
	w, err := newWatcher(i.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.close()
	defer context.AfterFunc(ctx, w.interrupt)()
	for {
		st, err := i.State()
		if err != nil || done(st) {
			return nil // whoever asks for the state gets the error
		}
		if err := w.wait(); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
}
