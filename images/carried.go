package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// carriedSuffix ends the names of root file system images that a migration has brought.
// They are called by the digest of their own bytes, not of an image's manifest: nobody
// here can know whether they were built from that. So nothing that is run here by an image's name
// ever gets them.
const carriedSuffix = ".carried.erofs"

// Incoming is a root file system image on its way into the store.
type Incoming struct {
	f    *os.File
	lock *os.File // the store's, shared: what is in tmp/ stays
	path string
	name string
	kept bool
}

// Receive begins to take in a root file system image of size bytes whose SHA-256 is
// sum, in lower-case hexadecimal; the caller has checked both. When it is there already, in
// is nil and held keeps it until it is closed.
func (s *Store) Receive(ctx context.Context, size int64, sum string) (in *Incoming, name string, held *os.File, err error) {
	name = sum + carriedSuffix
	path := s.path("derived", name)
	if strings.ContainsAny(sum, "/.") { // it becomes a file's name
		return nil, "", nil, fmt.Errorf("%w: %q is no digest", ErrBadImage, sum)
	}
	if st, err := os.Stat(path); err == nil && st.Size() == size {
		held, err = Rootfs{Path: path}.Open()
		if err == nil || !errors.Is(err, ErrNotFound) {
			return nil, name, held, err
		}
	}
	lock, err := lockFile(ctx, s.path("lock"), unix.LOCK_SH)
	if err != nil {
		return nil, "", nil, fmt.Errorf("image store: %w", err)
	}
	f, err := s.createTemp("carried")
	if err != nil {
		return nil, "", nil, errors.Join(err, lock.Close())
	}
	in = &Incoming{f: f, lock: lock, path: path, name: name}
	// The space is taken now, so that a full disk shows before the bytes travel.
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size); err != nil && err != unix.EOPNOTSUPP {
		in.Discard()
		return nil, "", nil, fmt.Errorf("room for an image of %d bytes: %w", size, os.NewSyscallError("fallocate", err))
	}
	return in, name, nil, nil
}

// Write appends to it.
func (in *Incoming) Write(p []byte) (int, error) { return in.f.Write(p) }

// Keep puts it into the store, synced. It stays as long as somebody holds held, or
// opens it by Rootfs.Open; then Prune takes it away. The caller has checked its digest.
func (in *Incoming) Keep() (held *os.File, err error) {
	defer in.lock.Close()
	in.kept = true
	if err = unix.Flock(int(in.f.Fd()), unix.LOCK_SH); err == nil {
		err = install(in.f, in.path)
	}
	if err != nil {
		_ = os.Remove(in.f.Name())
		return nil, errors.Join(fmt.Errorf("keep the image %s: %w", in.name, err), in.f.Close())
	}
	return in.f, nil
}

// Discard forgets it, if it was not kept.
func (in *Incoming) Discard() {
	if in.kept {
		return
	}
	in.kept = true
	_, _, _ = os.Remove(in.f.Name()), in.f.Close(), in.lock.Close() // tmp/ is swept in any case
}
