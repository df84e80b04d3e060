package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/transport"
)

// The owner of a VM reaches no files but its VM's. What a command wants it to
// write, it writes into a directory of the instance's, and what it is to read, the
// command puts there.

// newInstance is instances.Create for an instance that, as a VM, has a directory of
// its own.
func newInstance(c *cli.Context, instances *instance.Store, cfg *workload.Config, o instance.CreateOptions) (*instance.Instance, error) {
	if cfg.DataDir == "" && cfg.Backend == "vm" {
		var err error
		if cfg.DataDir, err = dataDir(c, cfg.ID); err != nil {
			return nil, err
		}
	}
	return instances.Create(cfg, o)
}

// outDir is where the owner of h may write; "" for one that may write everywhere.
func outDir(h *launch.Handle) (string, error) {
	data := h.Config().DataDir
	if data == "" {
		return "", nil
	}
	dir := filepath.Join(data, workload.OutDir)
	return dir, os.MkdirAll(dir, 0o700)
}

// openAll opens files for the owner of h, if it has a user of its own, who may not open
// them. done closes them.
func openAll(h *launch.Handle, names []string) (open []*os.File, done func(), err error) {
	done = func() {
		for _, f := range open {
			_ = f.Close()
		}
	}
	if !h.Apart() {
		return nil, done, nil
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			done()
			return nil, nil, err
		}
		open = append(open, f)
	}
	return open, done, nil
}

// within makes files readable to the owner of h, which are on the file system of
// its data directory. done takes that back.
func within(h *launch.Handle, files []string) (inside []string, done func(), err error) {
	data := h.Config().DataDir
	if data == "" || len(files) == 0 {
		return files, func() {}, nil
	}
	dir, err := os.MkdirTemp(filepath.Join(data, workload.InDir), instance.NewID()[:8])
	if err != nil {
		return nil, nil, err
	}
	done = func() { _ = os.RemoveAll(dir) }
	for i, f := range files {
		to := filepath.Join(dir, fmt.Sprint(i))
		err := os.Link(f, to)
		if errors.Is(err, unix.EXDEV) {
			err = copyFile(context.Background(), to, f)
		}
		if err != nil {
			done()
			return nil, nil, err
		}
		inside = append(inside, to)
	}
	return inside, done, nil
}

// lendIdentity makes this host's key readable to the owner of h until done is
// called; it reads it once.
func lendIdentity(h *launch.Handle, e *workload.Endpoint) (done func(), err error) {
	data := h.Config().DataDir
	if data == "" || e.Identity == "" {
		return func() {}, nil
	}
	if _, err := transport.LoadIdentity(e.Identity); err != nil { // which makes one
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Join(data, workload.InDir), "identity-")
	if err != nil {
		return nil, err
	}
	done = func() { _ = os.RemoveAll(dir) }
	if err := errors.Join(os.CopyFS(dir, os.DirFS(e.Identity)), h.Lend(dir)); err != nil {
		done()
		return nil, err
	}
	e.Identity = dir
	return done, nil
}

// moveFile moves a regular file to a path where nothing is.
func moveFile(ctx context.Context, to, from string) error {
	err := os.Link(from, to)
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EPERM) { // EPERM: a file system without links
		err = copyFile(ctx, to, from)
	}
	return err
}

// copyFile copies a regular file with its holes.
func copyFile(ctx context.Context, to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, dst.Close()); err != nil {
			_ = os.Remove(to)
		}
	}()
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	for at := int64(0); at < st.Size(); {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		start, err := src.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // the rest is a hole
		}
		if err != nil {
			return err
		}
		end, err := src.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		const step = 64 << 20
		at = min(end, start+step)
		if _, err := src.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := dst.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(dst, src, at-start); err != nil {
			return err
		}
	}
	return nil
}
