package instance

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
)

const (
	namesDir   = ".names"
	rootLock   = ".lock"
	configFile = "config.json"
	stateFile  = "state.json"
	lockFile   = "lock"
	socketFile = "control.sock"
	// OwnerLog is the file that receives the owner's standard error.
	OwnerLog = "owner.log"

	maxFile = 4 << 20 // of config.json and state.json
	idLen   = 64
)

// Store is a root directory of instances. Its methods may be called from any
// number of processes at once.
type Store struct{ root string }

// OpenStore opens the store in root and creates the directory, closed to
// others, when it is not there. The path is made absolute: owners run with
// another working directory.
func OpenStore(root string) (*Store, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w; use --root DIR", err)
	}
	if err := checkOwner(abs); err != nil {
		return nil, err
	}
	for _, dir := range []string{namesDir, eventsDir} {
		if err := os.Mkdir(filepath.Join(abs, dir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("state directory: %w; use --root DIR", err)
		}
	}
	return &Store{root: abs}, nil
}

// checkOwner refuses a root that another user has made, or may change: whoever
// can rename what is in it decides what an owner, maybe root, reads and writes.
func checkOwner(root string) error {
	for _, look := range []func(string) (fs.FileInfo, error){os.Lstat, os.Stat} { // a link, and where it leads
		fi, err := look(root)
		if err != nil {
			return fmt.Errorf("state directory: %w; use --root DIR", err)
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return fmt.Errorf("%w: state directory %s belongs to user %d; use --root with a directory of your own", ErrUnsafe, root, st.Uid)
		}
		if fi.IsDir() && fi.Mode().Perm()&0o022 != 0 {
			return fmt.Errorf("%w: state directory %s can be changed by other users (mode %#o); use --root with a directory of your own",
				ErrUnsafe, root, fi.Mode().Perm())
		}
	}
	return nil
}

// Root is the store's absolute path.
func (s *Store) Root() string { return s.root }

// CreateOptions says what to do about an instance of the same name.
type CreateOptions struct {
	// Replace removes an ended instance of the same name. A living one is a
	// conflict all the same: the caller has to stop it first.
	Replace bool
	// Created records status "created" at once (hvctl create). Without it the
	// instance counts as dead as soon as its lock is free, until an owner has
	// written a state.
	Created bool
}

// Create makes the directory of a new instance, with its lock held by the
// caller, from c. An empty c.ID or c.Name is filled in. An instance of the
// same name that is dead is removed; one that has ended is ErrNameInUse unless
// o.Replace; a living one always is.
func (s *Store) Create(c *workload.Config, o CreateOptions) (*Instance, error) {
	if c.ID == "" {
		c.ID = NewID()
	}
	if !validID(c.ID) {
		return nil, fmt.Errorf("instance ID %q: want %d hex digits", c.ID, idLen)
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.readyEvents(); err != nil {
		return nil, err
	}
	if c.Name == "" {
		c.Name = s.freeName()
	}
	if err := CheckName(c.Name); err != nil {
		return nil, err
	}
	if err := s.claimName(c, o.Replace); err != nil {
		return nil, err
	}
	i, err := s.build(c, o)
	if err != nil {
		_ = os.Remove(s.nameLink(c.Name))
		return nil, err
	}
	return i, nil
}

// claimName points the name's link at c.ID. The root is locked.
func (s *Store) claimName(c *workload.Config, replace bool) error {
	link := s.nameLink(c.Name)
	old, err := os.Readlink(link)
	if err == nil {
		if err := s.evict(c.Name, old, replace); err != nil {
			return err
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Symlink(c.ID, link)
}

// evict removes the instance id that has the wanted name, if it may.
func (s *Store) evict(name, id string, replace bool) error {
	i, err := s.load(id)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
		return s.discard(id) // a creation that was cut short
	}
	if err != nil {
		return err
	}
	if err := i.TryLock(); err != nil {
		return fmt.Errorf("%w: %q is running as %s; stop it or choose another name", ErrNameInUse, name, i.ShortID())
	}
	st, err := i.judge(false)
	if err == nil && st.Status != workload.Dead && !replace {
		i.Unlock()
		return fmt.Errorf("%w: %q is %s as %s; use `hvctl rm %s` or --replace", ErrNameInUse, name, st.Status, i.ShortID(), name)
	}
	err = s.discard(id)
	if err == nil {
		err = i.dropData()
	}
	i.Unlock()
	return err
}

// build fills a hidden directory and renames it, so that an instance is
// always seen whole. The root is locked.
func (s *Store) build(c *workload.Config, o CreateOptions) (*Instance, error) {
	tmp := filepath.Join(s.root, ".new-"+c.ID)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	i := &Instance{store: s, dir: tmp, config: c}
	err := func() error {
		if err := i.TryLock(); err != nil {
			return err
		}
		if err := writeJSON(filepath.Join(tmp, configFile), c); err != nil {
			return err
		}
		if o.Created {
			if err := i.WriteState(workload.State{Status: workload.Created, Created: time.Now()}); err != nil {
				return err
			}
		}
		return os.Rename(tmp, filepath.Join(s.root, c.ID))
	}()
	if err != nil {
		i.Unlock()
		_ = os.RemoveAll(tmp)
		return nil, fmt.Errorf("state directory: %w", err)
	}
	i.dir = filepath.Join(s.root, c.ID)
	return i, nil
}

// Open finds an instance by name, by ID, or by the beginning of an ID that
// fits no other.
func (s *Store) Open(ref string) (*Instance, error) {
	if CheckName(ref) == nil {
		if id, err := os.Readlink(s.nameLink(ref)); err == nil {
			if i, err := s.load(id); err == nil {
				return i, nil
			}
		}
	}
	if !isHex(ref) || len(ref) > idLen {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, ref)
	}
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	found := ""
	for _, id := range ids {
		if !strings.HasPrefix(id, ref) {
			continue
		}
		if found != "" {
			return nil, fmt.Errorf("%w: %q; give more digits", ErrAmbiguous, ref)
		}
		found = id
	}
	if found == "" {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, ref)
	}
	return s.load(found)
}

// OpenDir opens the instance whose directory is dir; owners are started with
// it.
func OpenDir(dir string) (*Instance, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{root: filepath.Dir(dir)}
	return s.load(filepath.Base(dir))
}

// List returns every instance, in no order. A directory that cannot be read
// is left out; Open of its ID says why.
func (s *Store) List() ([]*Instance, error) {
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	var out []*Instance
	for _, id := range ids {
		if i, err := s.load(id); err == nil {
			out = append(out, i)
		}
	}
	return out, nil
}

func (s *Store) ids() ([]string, error) {
	d, err := os.Open(s.root)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	ids := names[:0]
	for _, n := range names {
		if validID(n) {
			ids = append(ids, n)
		}
	}
	return ids, nil
}

func (s *Store) load(id string) (*Instance, error) {
	if !validID(id) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	i := &Instance{store: s, dir: filepath.Join(s.root, id), config: new(workload.Config)}
	err := readJSON(filepath.Join(i.dir, configFile), i.config)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %q", ErrNotFound, id)
	case err != nil:
		return nil, err
	case i.config.ID != id:
		return nil, fmt.Errorf("%w: %s: holds the configuration of another instance", ErrCorrupt, i.dir)
	}
	return i, nil
}

// discard deletes whatever there is of an instance, except its name. The root
// is locked. The rename comes first: nobody sees a half-deleted instance.
func (s *Store) discard(id string) error {
	if !validID(id) {
		return nil
	}
	for _, d := range []string{filepath.Join(s.root, ".new-"+id), filepath.Join(s.root, ".old-"+id)} {
		_ = os.RemoveAll(d)
	}
	gone := filepath.Join(s.root, ".old-"+id)
	err := os.Rename(filepath.Join(s.root, id), gone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return removeTree(gone)
}

// removeTree is os.RemoveAll, but that it does not open the directory that dir is in:
// an owner that is confined may only remove what is there.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

func (s *Store) nameLink(name string) string { return filepath.Join(s.root, namesDir, name) }

// lock holds the whole store for the caller.
func (s *Store) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.root, rootLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w; use --root DIR", err)
	}
	if err := lockWait(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// NewID returns a fresh instance ID.
func NewID() string {
	var b [idLen / 2]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func validID(s string) bool { return len(s) == idLen && isHex(s) }

func isHex(s string) bool { return s != "" && strings.Trim(s, "0123456789abcdef") == "" }

// writeJSON replaces path in one step. It does not sync: the store lives in a
// run-time directory that does not outlive the host.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() > maxFile {
		return fmt.Errorf("%w: %s: %d bytes, at most %d are allowed", ErrCorrupt, path, st.Size(), maxFile)
	}
	if err := json.NewDecoder(f).Decode(v); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, path, err)
	}
	return nil
}
