package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Freed says what Prune or Remove deleted.
type Freed struct {
	Blobs   int   // blobs that no image uses
	Derived int   // root file system images of no image
	Bytes   int64 // of both, as allocated on disk
}

// live is what the index needs.
type live struct {
	blobs     map[digest.Digest]bool
	manifests map[string]bool // hex digests
}

// reachable lists what the index needs. An unreadable manifest makes it fail:
// deleting by a partial list would lose data.
func (s *Store) reachable() (live, error) {
	l := live{map[digest.Digest]bool{}, map[string]bool{}}
	idx, err := s.readIndex()
	if err != nil {
		return l, err
	}
	for _, d := range idx.Manifests {
		l.blobs[d.Digest] = true
		l.manifests[d.Digest.Encoded()] = true
		raw, err := s.readBlob(d, maxManifest)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a missing manifest needs nothing
		}
		if err != nil {
			return l, err
		}
		m, err := decodeManifest(raw)
		if err != nil {
			return l, err
		}
		l.blobs[m.Config.Digest] = true
		for _, b := range m.Layers {
			l.blobs[b.Digest] = true
		}
	}
	return l, nil
}

// Prune deletes blobs and root file system images that belong to no image, and
// leftovers of interrupted operations. It waits until nobody adds to the store.
// Root file system images in use stay.
func (s *Store) Prune(ctx context.Context) (Freed, error) {
	lock, err := lockFile(ctx, s.path("lock"), unix.LOCK_EX)
	if err != nil {
		return Freed{}, fmt.Errorf("image store: %w", err)
	}
	defer lock.Close()
	return s.collect()
}

// collect needs the exclusive lock.
func (s *Store) collect() (Freed, error) {
	var freed Freed
	l, err := s.reachable()
	if err != nil {
		return freed, err
	}
	err = s.emptyTmp()
	err = errors.Join(err, s.eachFile("blobs/sha256", func(name, path string, size int64) error {
		if l.blobs[digest.NewDigestFromEncoded(digest.SHA256, name)] {
			return nil
		}
		freed.Blobs++
		freed.Bytes += size
		return os.Remove(path)
	}))
	err = errors.Join(err, s.eachFile("derived", func(name, path string, size int64) error {
		hex, rest, _ := strings.Cut(name, ".")
		current := rest == derivedSuffix || rest == lockSuffix || rest == treeSuffix
		if l.manifests[hex] && current || rootfsInUse(path) {
			return nil
		}
		if strings.HasSuffix(rest, ".tree") {
			// Whoever uses it holds the image that it was made of.
			if rootfsInUse(strings.TrimSuffix(path, ".tree") + ".erofs") {
				return nil
			}
			freed.Derived++
			return os.RemoveAll(path)
		}
		if rest != lockSuffix {
			freed.Derived++
			freed.Bytes += size
		}
		return os.Remove(path)
	}))
	return freed, err
}

func (s *Store) eachFile(dir string, do func(name, path string, size int64) error) error {
	es, err := os.ReadDir(s.path(dir))
	for _, e := range es {
		var size int64
		if st, statErr := e.Info(); statErr == nil {
			size = allocated(st)
		}
		err = errors.Join(err, do(e.Name(), filepath.Join(s.path(dir), e.Name()), size))
	}
	return err
}

// allocated is the disk space of a file, which is less than its length where it
// has holes.
func allocated(st fs.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512
	}
	return st.Size()
}

// Remove takes a reference out of the store. With its last reference an image
// goes: its blobs and root file system image are deleted, at once if nobody is
// adding to the store, otherwise by the next Prune. While a workload uses the
// image the last reference cannot go (ErrInUse) unless force is set; running
// workloads keep what they have open.
func (s *Store) Remove(ctx context.Context, ref string, force bool) (Freed, error) {
	err := s.updateIndex(ctx, func(idx *ocispec.Index) error {
		d, err := find(*idx, ref)
		if err != nil {
			return err
		}
		names := 0
		for _, o := range idx.Manifests {
			if o.Digest == d.Digest {
				names++
			}
		}
		switch name := refOf(d); {
		case name == "" && names > 1 && !force:
			return fmt.Errorf("%w: %s has %d references: remove them by name, or use force", ErrAmbiguous, ref, names)
		case names == 1 && !force && rootfsInUse(s.derivedPath(d.Digest)):
			return fmt.Errorf("%w: %s: stop the workloads that run it, or use force", ErrInUse, ref)
		case name == "":
			kept := idx.Manifests[:0]
			for _, o := range idx.Manifests {
				if o.Digest != d.Digest {
					kept = append(kept, o)
				}
			}
			idx.Manifests = kept
		default:
			dropRef(idx, name)
		}
		return nil
	})
	if err != nil {
		return Freed{}, err
	}
	lock, ok, err := tryLock(s.path("lock"), unix.LOCK_EX)
	if err != nil || !ok {
		return Freed{}, err
	}
	defer lock.Close()
	return s.collect()
}
