package instance

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// The owner of a VM that root starts goes on as a user of its own, whose number comes
// from the instance's ID: 0x70000000 to 0x7ffffffe, a range that systemd leaves unused
// (docs/adr/0018-confinement-of-the-owner.md). Nothing allocates it and no passwd has it.
const (
	firstUser = 0x70000001
	users     = 0x0ffffffe

	// OwnersGroup is the group of all such owners. It may add to the record of events,
	// and nothing else.
	OwnersGroup = 0x70000000
)

// removedFile is what is left in the directory of an instance that has removed itself
// with a user of its own: the path of its data directory, which is empty.
const removedFile = "removed"

// UserOf is the number of the user, and group, that the owner of the instance id may go
// on as.
func UserOf(id string) int {
	if !validID(id) {
		return 0
	}
	n, _ := strconv.ParseUint(id[:8], 16, 32) // they are hex digits
	return firstUser + int(n%users)
}

// Apart tells whether the instance's owner has, or had, a user of its own. What that may
// not do, whoever asks it does: the limits of its cgroup, and the end of that.
func (i *Instance) Apart() bool {
	var st unix.Stat_t
	return unix.Stat(i.dir, &st) == nil && st.Uid != 0 && int(st.Uid) == UserOf(i.ID())
}

// Lend gives a file or directory, and what is in it, to the owner's user, if it has one
// of its own. Nobody else may change the directory that path lies in.
func (i *Instance) Lend(path string) error {
	if !i.Apart() {
		return nil
	}
	return give(UserOf(i.ID()), path)
}

// TakeBack makes what the owner's user has written the caller's, and nobody else's. Only
// the caller may change the directory that path lies in.
func (i *Instance) TakeBack(path string) error {
	if !i.Apart() {
		return nil
	}
	return filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(name, os.Geteuid(), os.Getegid()); err != nil {
			return err
		}
		switch { // the owner may have opened it to others
		case e.IsDir():
			return os.Chmod(name, 0o700)
		case e.Type().IsRegular():
			return os.Chmod(name, 0o600)
		}
		return nil
	})
}

// give gives a file or directory, and what is in it, to the user and the group of that
// number. A file that goes away meanwhile is no error.
func give(user int, path string) error {
	return filepath.WalkDir(path, func(name string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(name, user, user)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

// removeContent is Remove for an owner with a user of its own: it may empty what is its
// own, and the directories, the name and the lock on the root are root's. Without its
// configuration there is no instance any more.
func (i *Instance) removeContent() error {
	if err := os.WriteFile(filepath.Join(i.dir, removedFile), []byte(i.config.DataDir), 0o600); err != nil {
		return err
	}
	var errs []error
	if err := i.checkData(); err == nil && i.config.DataDir != "" {
		errs = append(errs, empty(i.config.DataDir))
	}
	return errors.Join(append(errs, empty(i.dir, removedFile, lockFile))...)
}

// empty removes what is in a directory, but keep.
func empty(dir string, keep ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !slices.Contains(keep, e.Name()) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// Living tells whether the instance has an owner, or a starter; in doubt it has.
func (i *Instance) Living() bool { return i.store.Alive(i.ID()) }

// SweepRemoved is Store.SweepRemoved for one instance.
func (i *Instance) SweepRemoved() error { return i.store.sweepRemoved(i.ID()) }

// SweepRemoved takes away what is left of instances that have removed themselves: empty
// directories, and names.
func (s *Store) SweepRemoved() error {
	ids, err := s.ids()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, s.sweepRemoved(id))
	}
	return errors.Join(errs...)
}

func (s *Store) sweepRemoved(id string) error {
	if _, err := os.Lstat(filepath.Join(s.root, id, removedFile)); err != nil || s.Alive(id) {
		return nil
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(filepath.Join(s.root, id, configFile)); err == nil {
		return nil // it did not come to that, or goes on saying that it did
	}
	names, err := os.ReadDir(filepath.Join(s.root, namesDir))
	if err != nil {
		return err
	}
	for _, n := range names {
		link := filepath.Join(s.root, namesDir, n.Name())
		if to, err := os.Readlink(link); err == nil && to == id {
			_ = os.Remove(link)
		}
	}
	var errs []error
	if b, err := readSmall(filepath.Join(s.root, id, removedFile)); err == nil && filepath.IsAbs(b) && filepath.Base(b) == id {
		errs = append(errs, removeTree(filepath.Clean(b))) // of that name there is nothing but this instance's
	}
	return errors.Join(append(errs, s.discard(id))...)
}

// readSmall reads a file that another user wrote.
func readSmall(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	b := make([]byte, unix.PathMax)
	n, err := f.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return string(b[:n]), nil
}
