package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func (s *Store) blobPath(d digest.Digest) string { return s.path("blobs", "sha256", d.Encoded()) }

// readBlob returns a small blob, verified. The descriptor has been checked.
func (s *Store) readBlob(d ocispec.Descriptor, limit int64) ([]byte, error) {
	f, err := os.Open(s.blobPath(d.Digest))
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	defer f.Close()
	b, err := readAll(f, limit)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	if digest.FromBytes(b) != d.Digest {
		return nil, fmt.Errorf("%w: blob %s in the store is damaged; pull or import the image again", ErrDigestMismatch, d.Digest)
	}
	return b, nil
}

func (s *Store) openBlob(d digest.Digest) (*os.File, error) { return os.Open(s.blobPath(d)) }

// hasBlob reports whether a blob of the right size is there.
func (s *Store) hasBlob(d ocispec.Descriptor) bool {
	st, err := os.Stat(s.blobPath(d.Digest))
	return err == nil && st.Size() == d.Size
}

// txn is one addition to the store. It holds the store's lock shared.
type txn struct {
	s     *Store
	lock  *os.File
	mu    sync.Mutex // guards added: layers are fetched side by side
	added []digest.Digest
	// derived are root file system images made for an image that did not
	// get its name in the end.
	derived []string
	done    bool
}

func (s *Store) begin(ctx context.Context) (*txn, error) {
	lock, err := lockFile(ctx, s.path("lock"), unix.LOCK_SH)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	return &txn{s: s, lock: lock}, nil
}

var errTooLong = errors.New("longer than announced")

// put stores a stream as a blob. want.Digest may be empty (any), want.Size -1
// (any). Nothing stays behind after an error.
func (t *txn) put(ctx context.Context, r io.Reader, want ocispec.Descriptor) (_ ocispec.Descriptor, err error) {
	f, err := t.s.createTemp("blob")
	if err != nil {
		return want, err
	}
	kept := false
	defer func() {
		if !kept {
			_ = os.Remove(f.Name())
		}
		err = errors.Join(err, f.Close())
	}()

	if want.Size >= 0 {
		r = io.LimitReader(r, want.Size+1)
	}
	sum := digest.SHA256.Digester()
	n, err := copyContext(ctx, io.MultiWriter(f, sum.Hash()), r)
	if err != nil {
		return want, err
	}
	if want.Size >= 0 && n != want.Size {
		problem := fmt.Errorf("%d bytes", n)
		if n > want.Size {
			problem = errTooLong
		}
		return want, fmt.Errorf("%w: blob %s is announced with %d bytes, got %w", ErrDigestMismatch, want.Digest, want.Size, problem)
	}
	got := sum.Digest()
	if want.Digest != "" && want.Digest != got {
		return want, fmt.Errorf("%w: blob %s has the contents of %s", ErrDigestMismatch, want.Digest, got)
	}
	want.Digest, want.Size = got, n
	if t.s.hasBlob(want) {
		return want, nil
	}
	if err := install(f, t.s.blobPath(got)); err != nil {
		return want, err
	}
	kept = true
	t.mu.Lock()
	t.added = append(t.added, got)
	t.mu.Unlock()
	return want, nil
}

// commit points ref at a manifest whose blobs are all there.
func (t *txn) commit(ctx context.Context, ref string, d ocispec.Descriptor) error {
	err := t.s.updateIndex(ctx, func(idx *ocispec.Index) error {
		setRef(idx, ref, d)
		return nil
	})
	t.done = err == nil
	return err
}

// close ends the addition. If it has not been committed, what it added is
// deleted again, unless keepBlobs: verified blobs then stay for the next try.
func (t *txn) close(keepBlobs bool) error {
	err := t.lock.Close()
	for _, p := range t.derived {
		err = errors.Join(err, os.Remove(p))
	}
	if t.done || keepBlobs || len(t.added) == 0 {
		return err
	}
	// Another process may have found our blobs and count on them, so they go
	// only if nobody is adding; otherwise Prune will find them.
	lock, ok, lockErr := tryLock(t.s.path("lock"), unix.LOCK_EX)
	if lockErr != nil || !ok {
		return errors.Join(err, lockErr)
	}
	defer lock.Close()
	live, liveErr := t.s.reachable()
	if liveErr != nil {
		return errors.Join(err, liveErr)
	}
	for _, d := range t.added {
		if !live.blobs[d] {
			err = errors.Join(err, os.Remove(t.s.blobPath(d)))
		}
	}
	return err
}

// copyContext is io.Copy that ends when ctx does.
func copyContext(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	buf := make([]byte, 256<<10)
	var total int64
	for {
		if err := context.Cause(ctx); err != nil {
			return total, err
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return total, err
			}
			total += int64(n)
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
