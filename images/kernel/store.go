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
	"sort"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// oNonblock keeps an open of a FIFO from waiting for its other end.
const oNonblock = unix.O_NONBLOCK

// Kernel is a guest kernel.
type Kernel struct {
	Name    string `json:"name"`    // in the store; empty for a file of the user
	Version string `json:"version"` // as uname -r says; empty if unknown
	Format  Format `json:"format"`
	// Path is the kernel file.
	Path string `json:"-"`
	// ModulesDir is the directory of modules.dep; empty if it has none, as
	// with a kernel that has everything built in.
	ModulesDir string `json:"-"`
	// ConfigPath is the kernel's configuration; empty if unknown.
	ConfigPath string        `json:"-"`
	Digest     digest.Digest `json:"digest"` // of the kernel file
	Size       int64         `json:"size"`   // bytes of the kernel file
	Origin     string        `json:"origin"` // the file or package it came from
	Added      time.Time     `json:"added"`
	Default    bool          `json:"-"`
}

// Store is a directory of kernels. Several processes may use it at once.
type Store struct{ dir string }

// Open opens the store in dir and creates the directory when it is missing.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("kernel store: %w", err)
	}
	return &Store{dir}, nil
}

// Names of files. Those that begin with a dot cannot be a kernel's.
const (
	kernelFile  = "kernel"
	configFile  = "config"
	modulesDir  = "modules"
	metaFile    = "kernel.json"
	defaultFile = ".default"
	lockFile    = ".lock"
	tempPrefix  = ".tmp-"
)

// validName is written out: a bounded repetition takes a regular expression
// milliseconds to compile, and each start of a VM asks.
func validName(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
		if !letter && (i == 0 || c != '.' && c != '+' && c != '-') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func checkName(name string) error {
	if !validName(name) {
		return fmt.Errorf("%w %.100q: want up to 64 letters, digits, and . _ + - (not first)", ErrBadName, name)
	}
	return nil
}

// lock orders changes of the store. Waiting ends with ctx.
func (s *Store) lock(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("kernel store: %w", err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(os.NewSyscallError("flock", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for %s, which another hvctl holds: %w", f.Name(), context.Cause(ctx)), f.Close())
		case <-tick.C:
		}
	}
}

// Get returns a kernel by name, or, when arg has a slash or the store has no
// such name, the kernel in the file arg. An empty arg is the default kernel.
func (s *Store) Get(arg string) (*Kernel, error) {
	if arg == "" {
		return s.Default()
	}
	if checkName(arg) == nil {
		k, err := s.load(arg)
		if !errors.Is(err, ErrNotFound) {
			return k, err
		}
		if _, statErr := os.Stat(arg); statErr != nil {
			return nil, err
		}
	}
	return fromFile(arg)
}

// fromFile describes a kernel file outside the store. Modules are looked for
// beside it, in modules/.
func fromFile(path string) (*Kernel, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f, size, id, err := openKernel(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum, err := digest.FromReader(io.NewSectionReader(f, 0, size))
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", path, err)
	}
	k := &Kernel{Version: id.version, Format: id.format, Path: path, Digest: sum, Size: size, Origin: path}
	k.findExtras(filepath.Dir(path))
	return k, nil
}

func (k *Kernel) findExtras(dir string) {
	if _, err := os.Stat(filepath.Join(dir, modulesDir, depFile)); err == nil {
		k.ModulesDir = filepath.Join(dir, modulesDir)
	}
	if st, err := os.Stat(filepath.Join(dir, configFile)); err == nil && st.Mode().IsRegular() {
		k.ConfigPath = filepath.Join(dir, configFile)
	}
}

// load reads a kernel of the store. A missing one gives ErrNotFound.
func (s *Store) load(name string) (*Kernel, error) {
	dir := filepath.Join(s.dir, name)
	b, err := os.ReadFile(filepath.Join(dir, metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s (hvctl kernel ls lists what is there; hvctl kernel fetch or import adds one)", ErrNotFound, name)
	}
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", name, err)
	}
	var k Kernel
	if err := json.Unmarshal(b, &k); err != nil {
		return nil, fmt.Errorf("kernel %s: %s is damaged, import it again: %w", name, metaFile, err)
	}
	k.Name, k.Path = name, filepath.Join(dir, kernelFile)
	k.Default = s.defaultName() == name
	k.findExtras(dir)
	return &k, nil
}

// List returns the kernels by name. Damaged ones are left out and named in the
// error, which comes beside the others.
func (s *Store) List() ([]*Kernel, error) {
	es, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("kernel store: %w", err)
	}
	var out []*Kernel
	var errs []error
	for _, e := range es {
		if checkName(e.Name()) != nil || !e.IsDir() {
			continue
		}
		k, err := s.load(e.Name())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, k)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, errors.Join(errs...)
}

func (s *Store) defaultName() string {
	b, err := os.ReadFile(filepath.Join(s.dir, defaultFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Default returns the kernel to use when none is named: the one that SetDefault
// chose, or the only one there is.
func (s *Store) Default() (*Kernel, error) {
	if name := s.defaultName(); name != "" && checkName(name) == nil {
		k, err := s.load(name)
		if !errors.Is(err, ErrNotFound) {
			return k, err
		}
	}
	ks, err := s.List()
	if len(ks) == 1 {
		return ks[0], nil
	}
	if err != nil {
		return nil, err
	}
	if len(ks) == 0 {
		return nil, fmt.Errorf("%w: there is none yet (hvctl kernel fetch gets Debian's)", ErrNotFound)
	}
	return nil, fmt.Errorf("%w: there are %d and none is the default (hvctl kernel default NAME)", ErrNotFound, len(ks))
}

// SetDefault chooses the kernel that Default returns.
func (s *Store) SetDefault(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := s.load(name); err != nil {
		return err
	}
	return s.writeDefault(name)
}

// writeDefault needs the lock.
func (s *Store) writeDefault(name string) error {
	tmp := filepath.Join(s.dir, tempPrefix+"default")
	if err := writeSynced(tmp, []byte(name+"\n")); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, defaultFile)); err != nil {
		return err
	}
	return syncPath(s.dir)
}

// Remove deletes a kernel. Running VMs are not disturbed.
func (s *Store) Remove(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	dir := filepath.Join(s.dir, name)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	// First out of sight in one step, then away.
	gone := filepath.Join(s.dir, tempPrefix+"removed-"+name)
	if err := errors.Join(os.RemoveAll(gone), os.Rename(dir, gone)); err != nil {
		return err
	}
	if s.defaultName() == name {
		if err := os.Remove(filepath.Join(s.dir, defaultFile)); err != nil {
			return err
		}
	}
	return errors.Join(syncPath(s.dir), os.RemoveAll(gone))
}

func writeSynced(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
