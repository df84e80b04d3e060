package instance

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// Owners that see nothing else of the root see the directory, and so a file that
	// takes the place of another.
	eventsDir      = ".events"
	eventsFile     = eventsDir + "/events.jsonl"
	maxEventsBytes = 1 << 20 // of one file; there are two
)

// AppendEvent adds a line (without its end) to the host's record of what
// happened to instances, which outlives them and is bounded in size.
func (i *Instance) AppendEvent(line []byte) error {
	path := filepath.Join(i.store.root, eventsFile)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > maxEventsBytes {
		err := i.store.rotateEvents()
		// An owner that is confined cannot: the next instance's creation does.
		confined := errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)
		if err != nil && (!confined || st.Size() > 4*maxEventsBytes) {
			return err
		}
	}
	// One write: whole lines, whoever else writes. What a writer that was killed,
	// or found the disk full, left without an end must not swallow this one:
	// readers pass over empty lines.
	line = append(slices.Clip(line), '\n')
	if !endsWithNewline(path) {
		line = append([]byte{'\n'}, line...)
	}
	_, err = f.Write(line)
	return err
}

// endsWithNewline says whether a file is empty or ends with a whole line. When
// in doubt it does not.
func endsWithNewline(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return err == nil
	}
	var last [1]byte
	_, err = f.ReadAt(last[:], end-1)
	return err == nil && last[0] == '\n'
}

// rotateEvents starts a new file, if that is due. A writer that has the old one open may
// still add a line to it; readers miss it then.
func (s *Store) rotateEvents() error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return s.readyEvents()
}

// trimEvents is rotateEvents under the root's lock, where that is due.
func trimEvents(path string) error {
	st, err := os.Stat(path)
	if err != nil || st.Size() <= maxEventsBytes {
		return nil // another owner was quicker
	}
	return os.Rename(path, path+".1")
}

// readyEvents leaves a file that owners can write to, who can do nothing else here: also
// those that have a user of their own. The root is locked.
func (s *Store) readyEvents() error {
	path := filepath.Join(s.root, eventsFile)
	if err := trimEvents(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if os.Geteuid() != 0 {
		return nil
	}
	// They may look the file up and add to it, and not read what is there.
	return errors.Join(share(filepath.Dir(path), 0o710), share(path, 0o620))
}

// share gives a file of the record to the group of owners. Where that is not a number
// here (a user namespace that has fewer), no owner has a user of its own.
func share(path string, mode fs.FileMode) error {
	err := os.Chown(path, 0, OwnersGroup)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return errors.Join(err, os.Chmod(path, mode))
}

// ReadEvents calls fn with every recorded line, oldest first. With follow it
// goes on until ctx is done; caughtUp is called when all that was there has
// been read.
func (s *Store) ReadEvents(ctx context.Context, follow bool, caughtUp func(), fn func(line []byte) error) error {
	r := &lineReader{base: filepath.Join(s.root, eventsFile), fn: fn}
	defer r.close()
	if !follow {
		return r.drain()
	}
	w, err := newWatcher(filepath.Join(s.root, eventsDir))
	if err != nil {
		return err
	}
	defer w.close()
	defer context.AfterFunc(ctx, w.interrupt)()
	for {
		if err := r.drain(); err != nil {
			return err
		}
		if caughtUp != nil {
			caughtUp()
			caughtUp = nil
		}
		if err := w.wait(); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
}
