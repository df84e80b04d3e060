package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Store is an image store in a directory. Its methods may be called from any
// goroutine, and several processes may have the same directory open.
type Store struct{ dir string }

// Open opens the store in dir and creates it when it is missing. A store that
// may only be read can be opened and read.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir}
	if err := s.create(); err != nil {
		if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS) {
			if _, statErr := os.Stat(s.path(ocispec.ImageLayoutFile)); statErr == nil {
				return s, nil
			}
		}
		return nil, fmt.Errorf("image store %s: %w", dir, err)
	}
	return s, nil
}

// Dir returns the store's directory.
func (s *Store) Dir() string { return s.dir }

// KernelDir returns the directory for package images/kernel.
func (s *Store) KernelDir() string { return s.path("kernels") }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

const layoutVersion = `{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}` + "\n"

func (s *Store) create() error {
	for _, d := range []string{"blobs/sha256", "derived", "kernels", "tmp"} {
		if err := os.MkdirAll(s.path(d), 0o755); err != nil {
			return err
		}
	}
	if err := s.sweep(); err != nil {
		return err
	}
	_, err := os.Stat(s.path(ocispec.ImageLayoutFile))
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	lock, err := lockFile(context.Background(), s.path("index.lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := os.Stat(s.path(ocispec.ImageIndexFile)); errors.Is(err, os.ErrNotExist) {
		if err := s.writeIndex(emptyIndex()); err != nil {
			return err
		}
	}
	return s.writeFile(ocispec.ImageLayoutFile, []byte(layoutVersion))
}

// sweep removes what a killed process has left in tmp/, if nobody is writing.
func (s *Store) sweep() error {
	lock, ok, err := tryLock(s.path("lock"), unix.LOCK_EX)
	if err != nil || !ok {
		return err
	}
	defer lock.Close()
	return s.emptyTmp()
}

// emptyTmp needs the exclusive lock.
func (s *Store) emptyTmp() error {
	es, err := os.ReadDir(s.path("tmp"))
	for _, e := range es {
		err = errors.Join(err, os.RemoveAll(s.path("tmp", e.Name())))
	}
	return err
}

func (s *Store) createTemp(kind string) (*os.File, error) {
	return os.CreateTemp(s.path("tmp"), kind+"-*")
}

// writeFile replaces a small file of the store in one step.
func (s *Store) writeFile(name string, data []byte) (err error) {
	f, err := s.createTemp("file")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
		err = errors.Join(err, f.Close())
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return install(f, s.path(name))
}
