package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Import copies a kernel file and, if modules is not empty, its modules into the
// store under a name. modules may be the tree of one version, /lib/modules, or a
// root that has lib/modules. The first kernel becomes the default. A kernel of
// the same name is replaced. After an error the store is as it was.
func (s *Store) Import(ctx context.Context, name, file, modules string) (*Kernel, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	origin, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	return s.add(ctx, name, origin, func(dir string) error {
		f, size, id, err := openKernel(file)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := copyFile(ctx, filepath.Join(dir, kernelFile), io.NewSectionReader(f, 0, size)); err != nil {
			return err
		}
		if modules == "" {
			return nil
		}
		from, err := findModules(modules, id.version)
		if err != nil {
			return err
		}
		return copyTree(ctx, from, filepath.Join(dir, modulesDir))
	})
}

// add makes a kernel in a temporary directory by fill, completes it and moves it
// into place.
func (s *Store) add(ctx context.Context, name, origin string, fill func(dir string) error) (_ *Kernel, err error) {
	lock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := s.sweep(); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(s.dir, tempPrefix+"add-")
	if err != nil {
		return nil, fmt.Errorf("kernel store: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := fill(tmp); err != nil {
		return nil, err
	}
	if err := s.complete(ctx, tmp, origin); err != nil {
		return nil, err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, err
	}
	final := filepath.Join(s.dir, name)
	err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, final, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = os.Rename(tmp, final)
	}
	if err != nil {
		return nil, fmt.Errorf("kernel store: %w", err)
	}
	if err := syncPath(s.dir); err != nil {
		return nil, err
	}
	if s.defaultName() == "" {
		if err := s.writeDefault(name); err != nil {
			return nil, err
		}
	}
	return s.load(name)
}

// complete checks what fill made, indexes the modules and describes the kernel.
func (s *Store) complete(ctx context.Context, dir, origin string) error {
	f, size, id, err := openKernel(filepath.Join(dir, kernelFile))
	if err != nil {
		return err
	}
	defer f.Close()
	sum, err := digest.FromReader(io.NewSectionReader(f, 0, size))
	if err != nil {
		return err
	}
	mods := filepath.Join(dir, modulesDir)
	if _, err := os.Stat(mods); err == nil {
		if err := ensureIndex(ctx, mods); err != nil {
			return err
		}
	}
	k := Kernel{Version: id.version, Format: id.format, Digest: sum, Size: size, Origin: origin, Added: time.Now().UTC().Truncate(time.Second)}
	b, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(dir, metaFile), append(b, '\n')); err != nil {
		return err
	}
	return syncTree(dir)
}

// sweep removes what killed processes have left. It needs the lock.
func (s *Store) sweep() error {
	es, err := os.ReadDir(s.dir)
	for _, e := range es {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, e.Name())))
		}
	}
	return err
}

// findModules finds the tree of one version.
func findModules(dir, version string) (string, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("modules: %w", err)
	}
	if !st.IsDir() {
		return "", fmt.Errorf("%w: %s is not a directory", ErrBadModules, dir)
	}
	isTree := func(d string) bool {
		for _, name := range []string{"kernel", depFile, "modules.order", "modules.builtin"} {
			if _, err := os.Stat(filepath.Join(d, name)); err == nil {
				return true
			}
		}
		return false
	}
	if isTree(dir) {
		return dir, nil
	}
	if version != "" {
		for _, d := range []string{version, "lib/modules/" + version, "usr/lib/modules/" + version} {
			if d := filepath.Join(dir, d); isTree(d) {
				return d, nil
			}
		}
	}
	return "", fmt.Errorf("%w: %s has no modules of kernel %s", ErrBadModules, dir, orUnknown(version))
}

func orUnknown(v string) string {
	if v == "" {
		return "(unknown version)"
	}
	return v
}

// copyTree copies directories and regular files. Links, such as "build" and
// "source", lead out of the tree and are left behind.
func copyTree(ctx context.Context, from, to string) error {
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		dst := filepath.Join(to, name)
		switch {
		case d.IsDir():
			return os.MkdirAll(dst, 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		return copyFile(ctx, dst, f)
	})
}

func copyFile(ctx context.Context, path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, ctxReader{ctx, r})
	return errors.Join(err, f.Close())
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// syncTree makes a new tree durable with one call for its file system.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd()))), f.Close())
}
