package work

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// root is a root file system of an instance's own: the image's files below an
// overlay in memory, as our containers and VMs have.
type root struct{ dir string }

// Path is where it is mounted.
func (r root) Path() string { return filepath.Join(r.dir, "root") }

// mountRoot mounts one over tree.
func mountRoot(tree, dir string) (_ root, err error) {
	r := root{dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return r, err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0711"); err != nil {
		return r, os.NewSyscallError("mount", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.drop())
		}
	}()
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{r.Path(), upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return r, err
		}
	}
	if err := unix.Mount("overlay", r.Path(), "overlay", 0, "lowerdir="+tree+",upperdir="+upper+",workdir="+work); err != nil {
		return r, fmt.Errorf("mount the overlay: %w", err)
	}
	return r, nil
}

// mount mounts something inside.
func (r root) mount(source, at, fstype string, flags uintptr, data string) error {
	p := filepath.Join(r.Path(), at)
	if err := os.MkdirAll(p, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, p, fstype, flags, data); err != nil {
		return &os.PathError{Op: "mount", Path: p, Err: err}
	}
	return nil
}

// drop unmounts everything of it.
func (r root) drop() error {
	for _, d := range []string{"root/dev", "root/proc", "root", ""} {
		d = filepath.Join(r.dir, d)
		if err := unix.Unmount(d, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return &os.PathError{Op: "unmount", Path: d, Err: err}
		}
	}
	if err := os.Remove(r.dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
