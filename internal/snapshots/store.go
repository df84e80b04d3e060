package snapshots

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

var (
	// ErrNotFound means that no snapshot has that name.
	ErrNotFound = errors.New("no such snapshot")
	// ErrExists means that the name is taken.
	ErrExists = errors.New("there is a snapshot of that name")
	// ErrBadName means that a name is none.
	ErrBadName = errors.New("bad snapshot name")
)

// Store is a directory of snapshots. Any number of processes may use it at once.
type Store struct{ root string }

// Open returns the store in root, which is made when the first snapshot is.
func Open(root string) (*Store, error) {
	abs, err := filepath.Abs(root)
	return &Store{abs}, err
}

// pendingPrefix begins the names of directories that are being filled.
const pendingPrefix = ".new-"

// Pending is a snapshot that is being made.
type Pending struct {
	s         *Store
	name, dir string
	replace   bool
}

// Create makes an empty directory for the snapshot called name, in the directory
// at of the same file system; empty: in the store. With replace one of that name
// gives way when the new one is complete.
func (s *Store) Create(name string, replace bool, at string) (*Pending, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, fmt.Errorf("snapshot store: %w", err)
	}
	if _, err := os.Lstat(s.path(name)); err == nil && !replace {
		return nil, fmt.Errorf("%w: %q; remove it, choose another name or use --replace", ErrExists, name)
	}
	dir, err := os.MkdirTemp(cmp.Or(at, s.root), pendingPrefix)
	if err != nil {
		return nil, fmt.Errorf("snapshot store: %w", err)
	}
	return &Pending{s, name, dir, replace}, nil
}

// Dir is the directory to fill.
func (p *Pending) Dir() string { return p.dir }

// Commit gives the snapshot its name.
func (p *Pending) Commit() error {
	if p.replace {
		if err := p.s.Remove(p.name); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	err := os.Rename(p.dir, p.s.path(p.name)) // fails on a directory that is not empty
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%w: %q", ErrExists, p.name)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(p.s.root)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Abort deletes what there is of it. After Commit it does nothing.
func (p *Pending) Abort() { _ = os.RemoveAll(p.dir) }

// CheckName refuses names that could be a path, an option or one of ours.
func CheckName(name string) error {
	const chars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	if name == "" || len(name) > 128 || strings.Trim(name, chars) != "" || name[0] == '.' || name[0] == '-' {
		return fmt.Errorf("%w %q: use up to 128 letters, digits, '_', '.' and '-', and begin with a letter or digit", ErrBadName, name)
	}
	return nil
}

func (s *Store) path(name string) string { return filepath.Join(s.root, name) }

// File is the path of a snapshot's file; it need not exist.
func (s *Store) File(name string) string { return filepath.Join(s.path(name), workload.SnapshotFile) }

// Names returns the names of all snapshots, sorted.
func (s *Store) Names() ([]string, error) {
	entries, err := os.ReadDir(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot store: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// Remove deletes a snapshot. Instances that go on from it keep what they use. One
// that others need is not deleted: the error wraps ErrNeeded.
func (s *Store) Remove(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	over, err := s.Over(name)
	if err != nil {
		return err
	}
	if len(over) > 0 {
		return fmt.Errorf("snapshot %q: %w: %s; merge or remove them first", name, ErrNeeded, strings.Join(over, ", "))
	}
	gone, err := os.MkdirTemp(s.root, pendingPrefix)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	if err != nil {
		return err
	}
	defer os.RemoveAll(gone)
	err = os.Rename(s.path(name), filepath.Join(gone, "x")) // nobody sees half of it
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	return err
}

// Snapshot is an open snapshot with what it says of its instance.
type Snapshot struct {
	*snapshot.Snapshot
	Name        string
	Description workload.Description
}

// Get opens a snapshot. Its head, tables and state are checked, memory is not.
func (s *Store) Get(name string) (*Snapshot, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	snap, err := open(s.File(name), name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	return snap, err
}

// Open opens what Dir was filled with, before Commit.
func (p *Pending) Open() (*Snapshot, error) {
	return open(filepath.Join(p.dir, workload.SnapshotFile), p.name)
}

func open(file, name string) (*Snapshot, error) {
	f, err := snapshot.Open(file)
	if err != nil {
		return nil, err
	}
	d, err := workload.ParseDescription(f.Description())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("snapshot %s: %w", name, err), f.Close())
	}
	return &Snapshot{f, name, d}, nil
}
