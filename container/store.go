package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Files of a container's directory.
const (
	stateFile   = "state.json"
	configFile  = "config.json"
	startSocket = "start.sock"
	readyFile   = "ready" // its creation came to its end
	rootMount   = "root"  // during a restore: a folder on which the root file system is mounted
)

// CheckID refuses IDs that are not [a-zA-Z0-9_+-][a-zA-Z0-9_+.-]*: they become
// file names. The error wraps ErrInvalidID.
func CheckID(id string) error {
	ok := id != "" && len(id) <= 255 && id[0] != '.'
	for i := range len(id) {
		c := id[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '+' || c == '-' || c == '.')
	}
	if !ok {
		return fmt.Errorf("%w: %q: use letters, digits and _ + - . (not first), at most 255", ErrInvalidID, id)
	}
	return nil
}

// dir is a container's open and, after lock, locked directory.
type dir struct {
	path string
	fd   int
}

// openDir opens the directory of id. The error wraps ErrNotExist.
func (r *Runtime) openDir(id string) (*dir, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	d := &dir{path: filepath.Join(r.Root, id)}
	var err error
	d.fd, err = unix.Open(d.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("container %q: %w", id, ErrNotExist)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: d.path, Err: err}
	}
	return d, nil
}

// lockDir opens and locks the directory of id, waiting for whoever holds it.
func (r *Runtime) lockDir(id string) (*dir, error) {
	d, err := r.openDir(id)
	if err != nil {
		return nil, err
	}
	if err := d.lock(id); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *dir) lock(id string) error {
	for {
		err := unix.Flock(d.fd, unix.LOCK_EX)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return os.NewSyscallError("flock", err)
		}
	}
	// It may have been deleted, and even made again, while we waited.
	var here, there unix.Stat_t
	if err := unix.Fstat(d.fd, &here); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if err := unix.Stat(d.path, &there); err != nil || here.Ino != there.Ino || here.Dev != there.Dev {
		return fmt.Errorf("container %q: %w", id, ErrNotExist)
	}
	return nil
}

// newDir makes and locks the directory of id. The error wraps ErrExist.
func (r *Runtime) newDir(id string) (*dir, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.Root, 0o711); err != nil {
		return nil, fmt.Errorf("state root: %w; choose another with --root", err)
	}
	d := &dir{path: filepath.Join(r.Root, id)}
	if err := unix.Mkdir(d.path, 0o700); err != nil {
		if err == unix.EEXIST {
			return nil, fmt.Errorf("%w: %s", ErrExist, id)
		}
		return nil, &fs.PathError{Op: "mkdir", Path: d.path, Err: err}
	}
	return r.lockDir(id)
}

// close releases the lock.
func (d *dir) close() { unix.Close(d.fd) }

// remove deletes the directory. The name goes last, so that a death on the way
// leaves something that can be deleted again.
func (d *dir) remove() error {
	for _, name := range [...]string{startSocket, readyFile, configFile, stateFile} {
		_ = unix.Unlinkat(d.fd, name, 0) // that is nearly always all
	}
	if unix.Rmdir(d.path) == nil {
		return nil
	}
	// A restore that was killed leaves a root file system mounted, whose files
	// are not ours to remove.
	root := d.file(rootMount)
	for unix.Unmount(root, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
	}
	if err := unix.Rmdir(root); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "rmdir", Path: root, Err: err}
	}
	return os.RemoveAll(d.path)
}

func (d *dir) file(name string) string { return filepath.Join(d.path, name) }

// ready says that the container's creation came to its end.
func (d *dir) ready() bool {
	return unix.Faccessat(d.fd, readyFile, unix.F_OK, 0) == nil
}

// setReady notes that.
func (d *dir) setReady() error {
	fd, err := unix.Openat(d.fd, readyFile, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return &fs.PathError{Op: "create", Path: d.file(readyFile), Err: err}
	}
	return unix.Close(fd)
}

// replace writes a file so that others see the old content or the new.
func (d *dir) replace(name string, b []byte) error {
	tmp := d.file("." + name + ".tmp")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, d.file(name))
}
