package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// groupsDir has a file for each instance whose owner was put into a cgroup,
// with the group's path. It is beside the instances and not in them: whoever
// removes an instance in a hurry leaves the note for the next one to act on.
const groupsDir = ".cgroups"

// maxGroupPath is more than the path of a cgroup has.
const maxGroupPath = 8192

// NoteGroup records the cgroup that is about to be made for the owner. The
// caller holds the instance's lock.
func (i *Instance) NoteGroup(path string) error {
	dir := filepath.Join(i.store.root, groupsDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("state directory: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, i.ID()), []byte(path), 0o600)
}

// Group is the cgroup that was noted; "" without one.
func (i *Instance) Group() string { return i.store.group(i.ID()) }

// ForgetGroup removes the note, after the group.
func (i *Instance) ForgetGroup() error { return i.store.ForgetGroup(i.ID()) }

// ForgetGroup removes the note of the instance id, which may be gone itself.
func (s *Store) ForgetGroup(id string) error {
	err := os.Remove(filepath.Join(s.root, groupsDir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// StrayGroups are the noted cgroups, by instance ID, whose owner does not live:
// it was killed. Nobody else may use them, so they can be removed with all that
// is in them.
func (s *Store) StrayGroups() (map[string]string, error) {
	d, err := os.Open(filepath.Join(s.root, groupsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	ids, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	stray := map[string]string{}
	for _, id := range ids {
		if !validID(id) {
			continue
		}
		// The lock is held from before the note until the group is gone, by the
		// starter and then by the owner.
		i := &Instance{store: s, dir: filepath.Join(s.root, id)}
		if held, err := i.held(); held || err != nil {
			continue
		}
		if path := s.group(id); path != "" {
			stray[id] = path
		}
	}
	return stray, nil
}

// Alive tells whether the instance id has an owner, or a starter; in doubt it
// has.
func (s *Store) Alive(id string) bool {
	if !validID(id) {
		return true
	}
	i := &Instance{store: s, dir: filepath.Join(s.root, id)}
	held, err := i.held()
	return held || err != nil
}

func (s *Store) group(id string) string {
	b, err := os.ReadFile(filepath.Join(s.root, groupsDir, id))
	if err != nil || len(b) > maxGroupPath || !strings.HasPrefix(string(b), "/") {
		return ""
	}
	return string(b)
}
