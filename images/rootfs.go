package images

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/images/rootfs"
)

// Rootfs is the read-only file system image of an image.
type Rootfs struct {
	Path   string        // the file, whose length is a multiple of 4096
	Format string        // the kernel's name of the file system: "erofs"
	Digest digest.Digest // of the image's manifest
	Size   int64         // bytes
}

// Open opens the file and marks it as in use for as long as the file, or a
// duplicate of its descriptor in any process, is open: until then the image
// cannot be removed without force. It fails with ErrNotFound when the image has
// been removed since.
func (r Rootfs) Open() (*os.File, error) {
	f, err := os.Open(r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: root file system image of %s has been removed: %w", ErrNotFound, r.Digest, err)
	}
	if err != nil {
		return nil, err
	}
	// Prune holds the lock for an instant to see whether we do.
	if err := ignoringEINTR(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_SH) }); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", r.Path, err), f.Close())
	}
	return f, nil
}

// RootfsOptions bound the building of a root file system image. The zero value
// has the limits of rootfs.Options.
type RootfsOptions struct {
	MaxFiles int
	MaxBytes int64
	Progress Progress
}

var (
	derivedSuffix = "v" + strconv.Itoa(rootfs.FormatVersion) + ".erofs"
	treeSuffix    = "v" + strconv.Itoa(rootfs.FormatVersion) + ".tree" // a directory, see Tree
)

const lockSuffix = "lock"

func (s *Store) derivedPath(d digest.Digest) string {
	return s.path("derived", d.Encoded()+"."+derivedSuffix)
}

func (s *Store) treePath(d digest.Digest) string {
	return s.path("derived", d.Encoded()+"."+treeSuffix)
}

// buildLockPath is the file that is locked while a root file system image is
// built.
func (s *Store) buildLockPath(d digest.Digest) string {
	return s.path("derived", d.Encoded()+"."+lockSuffix)
}

// rootfsInUse reports whether some process has the file open by Rootfs.Open.
func rootfsInUse(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(flock(f, unix.LOCK_EX), unix.EWOULDBLOCK)
}

// Rootfs returns the root file system image of an image and builds it if need
// be. Callers at the same time, in any process, share one build. The bytes
// depend on nothing but the image.
func (s *Store) Rootfs(ctx context.Context, im *Image, opt RootfsOptions) (Rootfs, error) {
	r := Rootfs{Path: s.derivedPath(im.Digest), Format: "erofs", Digest: im.Digest}
	if st, err := os.Stat(r.Path); err == nil {
		r.Size = st.Size()
		return r, nil
	}
	// The shared lock keeps the layers from being pruned meanwhile.
	lock, err := lockFile(ctx, s.path("lock"), unix.LOCK_SH)
	if err != nil {
		return r, fmt.Errorf("image store: %w", err)
	}
	defer lock.Close()
	return s.buildRootfs(ctx, im, opt)
}

// buildRootfs needs the store's lock, shared.
func (s *Store) buildRootfs(ctx context.Context, im *Image, opt RootfsOptions) (r Rootfs, err error) {
	r = Rootfs{Path: s.derivedPath(im.Digest), Format: "erofs", Digest: im.Digest}
	name := s.buildLockPath(im.Digest)
	once, err := lockFile(ctx, name, unix.LOCK_EX)
	if err != nil {
		return r, err
	}
	defer once.Close()
	defer func() {
		// Nothing was built, and the image may not even stay. Whoever waits for
		// this lock file looks for the result next and builds it himself; two
		// builds at once are twice the work, and install one result.
		if err != nil {
			_ = os.Remove(name)
		}
	}()
	if st, err := os.Stat(r.Path); err == nil {
		r.Size = st.Size()
		return r, nil
	}
	f, err := s.createTemp("rootfs")
	if err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
			err = fmt.Errorf("root file system of %s: %w", im.Digest, err)
		}
		err = errors.Join(err, f.Close())
	}()
	var o rootfs.Options
	o.MaxFiles, o.MaxBytes = opt.MaxFiles, opt.MaxBytes
	if sum, err := hex.DecodeString(im.Digest.Encoded()); err == nil {
		copy(o.UUID[:], sum)
	}
	info, err := rootfs.Build(ctx, f, s.layers(im, opt.Progress), o)
	if errors.Is(err, rootfs.ErrDiffID) {
		err = fmt.Errorf("%w: %w", ErrDigestMismatch, err)
	}
	if err != nil {
		return r, err
	}
	for _, d := range info.Dead {
		// Contents that upper layers replaced. Without support for holes
		// the file is only larger on disk.
		_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, d.Offset, d.Length)
	}
	r.Size = int64(info.Size)
	return r, install(f, r.Path)
}

func (s *Store) layers(im *Image, p Progress) []rootfs.Layer {
	var out []rootfs.Layer
	for i, l := range im.layers {
		out = append(out, rootfs.Layer{
			Name: l.Digest.String(), DiffID: im.Config.RootFS.DiffIDs[i],
			Open: func() (io.ReadCloser, error) {
				f, err := os.Open(s.blobPath(l.Digest))
				if err != nil {
					return nil, err
				}
				counted, end := p.start(PhaseBuild, l.Digest.Encoded()[:12], l.Size, f)
				r, err := decompress(counted)
				if err != nil {
					end()
					return nil, errors.Join(err, f.Close())
				}
				return closer{r, func() error { end(); r.Close(); return f.Close() }}, nil
			},
		})
	}
	return out
}

type closer struct {
	io.Reader
	close func() error
}

func (c closer) Close() error { return c.close() }
