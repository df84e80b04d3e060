package instance

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// Instance is one directory of the store. The value is not safe for
// concurrent use; any number of values and processes may look at the same
// directory.
type Instance struct {
	store  *Store
	dir    string
	config *workload.Config
	lock   *os.File
}

// Config is what the instance was asked to be. It must not be changed.
func (i *Instance) Config() *workload.Config { return i.config }

// Dir is the instance's directory.
func (i *Instance) Dir() string { return i.dir }

// ID is the full ID.
func (i *Instance) ID() string { return i.config.ID }

// ShortID is the beginning of the ID that people use.
func (i *Instance) ShortID() string { return i.config.ID[:12] }

// Name is the instance's name.
func (i *Instance) Name() string { return i.config.Name }

// State reads what is known now. Where the recorded status needs a living
// owner and there is none, Status is Dead and PID 0.
func (i *Instance) State() (workload.State, error) {
	// The lock is looked at first: an owner writes its last state before it
	// lets go, so a free lock means the file has its final content.
	held, err := i.held()
	if err != nil {
		return workload.State{}, err
	}
	return i.judge(held)
}

// judge reads the state as it is when an owner holds the lock, or none does.
func (i *Instance) judge(held bool) (workload.State, error) {
	var st workload.State
	err := readJSON(filepath.Join(i.dir, stateFile), &st)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(filepath.Join(i.dir, configFile)); err != nil { // one that has removed itself leaves a directory
			return st, fmt.Errorf("%w: %q", ErrNotFound, i.Name())
		}
		st = workload.State{Status: workload.Created}
		if fi, err := os.Stat(filepath.Join(i.dir, configFile)); err == nil {
			st.Created = fi.ModTime()
		}
		if !held {
			st.Status = workload.Dead
		}
	case err != nil:
		return st, err
	case !held && (st.Status == workload.Running || st.Status == workload.Paused):
		st.Status = workload.Dead
		st.Exit = i.lost()
	}
	if !held {
		st.PID = 0
	} else if st.PID == 0 {
		st.PID = i.ownerPID()
	}
	return st, nil
}

// lost is how an instance ended whose owner could not say so itself; nil when
// nobody else did.
func (i *Instance) lost() *workload.Exit {
	f, err := os.Open(filepath.Join(i.dir, workload.LostFile))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	st, serr := f.Stat()
	if err != nil || serr != nil {
		return nil
	}
	return &workload.Exit{Code: workload.SignalExitCode(int(unix.SIGKILL)), Err: string(b), At: st.ModTime()}
}

// WriteState replaces state.json. Only the holder of the lock may call it.
func (i *Instance) WriteState(st workload.State) error {
	return writeJSON(filepath.Join(i.dir, stateFile), st)
}

// WriteConfig replaces config.json, for an instance that learns what it is when
// it starts. ID and name stay. The caller is the owner.
func (i *Instance) WriteConfig(c *workload.Config) error {
	if c.ID != i.ID() || c.Name != i.Name() {
		return fmt.Errorf("%w: the configuration of %s (%s) is another instance's", ErrCorrupt, c.Name, c.ID)
	}
	i.config = c
	return writeJSON(filepath.Join(i.dir, configFile), c)
}

// held tells whether anybody, this value included, holds the lock.
func (i *Instance) held() (bool, error) {
	if i.lock != nil {
		return true, nil
	}
	f, err := os.OpenFile(filepath.Join(i.dir, lockFile), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	return lockedByOther(f)
}

// TryLock takes the lock, or fails with ErrLocked.
func (i *Instance) TryLock() error {
	f, err := os.OpenFile(filepath.Join(i.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := tryLock(f); err != nil {
		f.Close()
		return fmt.Errorf("%s: %w", i.Name(), err)
	}
	_ = f.Truncate(0) // an earlier owner's process ID; only a hint
	i.lock = f
	return nil
}

// ownerPID is what the owner wrote into its lock; 0 while there is none yet.
func (i *Instance) ownerPID() int {
	b, err := os.ReadFile(filepath.Join(i.dir, lockFile))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil || pid < 2 {
		return 0
	}
	return pid
}

// AdoptLock makes f, inherited from the process that locked it, this value's
// lock. It fails when f is not this instance's lock file or not locked by f.
func (i *Instance) AdoptLock(f *os.File) error {
	var have, want unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &have); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if err := unix.Stat(filepath.Join(i.dir, lockFile), &want); err != nil {
		return os.NewSyscallError("stat", err)
	}
	if have.Dev != want.Dev || have.Ino != want.Ino {
		return fmt.Errorf("the inherited descriptor is not %s", filepath.Join(i.dir, lockFile))
	}
	if err := tryLock(f); err != nil { // changes nothing when f holds it
		return fmt.Errorf("%s: %w", i.Name(), err)
	}
	unix.CloseOnExec(int(f.Fd()))
	// So that an owner that hangs before it has written a state can be killed.
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	i.lock = f
	return nil
}

// LockFile is the open lock to hand to an owner, nil without a lock.
func (i *Instance) LockFile() *os.File { return i.lock }

// Unlock lets go of the lock, here: a copy handed to an owner keeps it.
func (i *Instance) Unlock() {
	if i.lock != nil {
		i.lock.Close()
		i.lock = nil
	}
}

// Remove deletes the instance. The caller holds its lock (TryLock, or it is
// the owner); it is let go. An owner with a user of its own leaves empty directories
// to whoever comes next (SweepRemoved), and the lock to its end.
func (i *Instance) Remove() error {
	if euid := os.Geteuid(); euid != 0 && euid == UserOf(i.ID()) {
		return i.removeContent()
	}
	unlock, err := i.store.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if id, err := os.Readlink(i.store.nameLink(i.Name())); err == nil && id == i.ID() {
		if err := os.Remove(i.store.nameLink(i.Name())); err != nil {
			return err
		}
	}
	if err := i.store.discard(i.ID()); err != nil {
		return err
	}
	err = i.dropData()
	i.Unlock()
	return err
}

// dropData deletes the directory that only this instance uses. That it bears the
// instance's ID keeps a damaged configuration from naming another one.
func (i *Instance) dropData() error {
	if err := i.checkData(); err != nil || i.config.DataDir == "" {
		return err
	}
	return removeTree(i.config.DataDir)
}

func (i *Instance) checkData() error {
	if d := i.config.DataDir; d != "" && (!filepath.IsAbs(d) || filepath.Base(d) != i.ID()) {
		return fmt.Errorf("%w: %s: data directory %q is not this instance's", ErrCorrupt, i.dir, d)
	}
	return nil
}
