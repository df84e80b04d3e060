package instance

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

func TestUsersAreInTheirRange(t *testing.T) {
	for _, id := range []string{strings.Repeat("0", idLen), strings.Repeat("f", idLen), "0ffffffe" + strings.Repeat("0", idLen-8), NewID()} {
		if u := UserOf(id); u <= OwnersGroup || u >= 0x7fffffff {
			t.Errorf("%s: user %#x", id[:8], u)
		}
	}
	if u := UserOf("no ID"); u != 0 {
		t.Errorf("of no ID: user %d", u)
	}
}

// removedStore has an instance that removes itself as an owner with a user of its own
// does, up to the end of its lock.
func removedStore(t *testing.T) (*Store, *Instance) {
	t.Helper()
	dir := t.TempDir()
	s, err := OpenStore(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	c := &workload.Config{ID: NewID(), Name: "gone"}
	c.DataDir = filepath.Join(dir, c.ID)
	if err := errors.Join(os.MkdirAll(filepath.Join(c.DataDir, "out"), 0o700), os.WriteFile(filepath.Join(c.DataDir, "disk"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	i, err := s.Create(c, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(i.WriteState(workload.State{Status: workload.Running}), i.removeContent()); err != nil {
		t.Fatal(err)
	}
	return s, i
}

// An owner that may remove no entry of others' directories removes its instance all the
// same: nobody finds it, its name is free, and the next sweep takes the rest.
func TestInstanceRemovedByItsUserIsGone(t *testing.T) {
	s, i := removedStore(t)
	if _, err := s.Open("gone"); !errors.Is(err, ErrNotFound) {
		t.Errorf("by name: %v", err)
	}
	if _, err := i.State(); !errors.Is(err, ErrNotFound) {
		t.Errorf("for who knew it: %v", err)
	}
	if left, err := os.ReadDir(i.Config().DataDir); err != nil || len(left) > 0 {
		t.Errorf("in its data directory: %v, %v", left, err)
	}
	if err := s.SweepRemoved(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(i.Dir()); err != nil {
		t.Errorf("swept while its owner lives: %v", err)
	}
	i.Unlock()
	if err := s.SweepRemoved(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{i.Dir(), i.Config().DataDir, s.nameLink("gone")} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("left: %s", path)
		}
	}
	if _, err := s.Create(&workload.Config{Name: "gone"}, CreateOptions{}); err != nil {
		t.Errorf("its name is not free: %v", err)
	}
}

// What an owner leaves as the path of its data directory leads to no other's.
func TestSweepRemovesNothingOfOthers(t *testing.T) {
	s, i := removedStore(t)
	other := t.TempDir()
	for _, path := range []string{other, other + "/" + NewID(), filepath.Base(i.Dir()), other + "/../" + filepath.Base(other)} {
		if err := os.WriteFile(filepath.Join(i.Dir(), removedFile), []byte(path), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = os.Mkdir(path, 0o700)
		i.Unlock()
		if err := s.SweepRemoved(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(other); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if err := os.MkdirAll(i.Dir(), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	_ = os.Remove(filepath.Base(i.Dir())) // the relative one
	if err := os.Symlink("/etc/passwd", filepath.Join(i.Dir(), removedFile)); err != nil {
		t.Fatal(err)
	}
	if err := s.SweepRemoved(); err != nil {
		t.Error(err)
	}
}

// The record of events is one that owners with a user of their own may add to, and not
// read; also the one that a full one gives way to.
func TestEventsAreForOwnersToAddTo(t *testing.T) {
	testenv.Require(t, testenv.Root)
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	i, err := s.Create(&workload.Config{}, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	record := PlacesOf(s.Root()).Events
	for range 2 {
		for path, mode := range map[string]uint32{record: 0o710, filepath.Join(record, "events.jsonl"): 0o620} {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil || st.Mode&0o777 != mode || st.Uid != 0 || st.Gid != OwnersGroup {
				t.Errorf("%s: mode %o of %d:%d, %v", path, st.Mode, st.Uid, st.Gid, err)
			}
		}
		if err := errors.Join(os.Truncate(filepath.Join(record, "events.jsonl"), maxEventsBytes+1), i.AppendEvent([]byte("{}"))); err != nil {
			t.Fatal(err)
		}
	}
}

// What a client lends is the owner's user's, and what it takes back nobody's but its own.
func TestLentFilesComeBack(t *testing.T) {
	testenv.Require(t, testenv.Root)
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	i, err := s.Create(&workload.Config{}, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "sub", "file")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o777), os.WriteFile(file, nil, 0o666), os.Chmod(file, 0o4777)); err != nil {
		t.Fatal(err)
	}
	owner := func() (uint32, os.FileMode) {
		var st unix.Stat_t
		if err := unix.Lstat(file, &st); err != nil {
			t.Fatal(err)
		}
		return st.Uid, os.FileMode(st.Mode & 0o7777)
	}
	if err := i.Lend(dir); err != nil || i.Apart() {
		t.Error(err)
	}
	if u, _ := owner(); u != 0 {
		t.Errorf("given to user %d, though the owner is root", u)
	}
	user := UserOf(i.ID())
	if err := errors.Join(os.Chown(i.Dir(), user, user), i.Lend(dir)); err != nil || !i.Apart() {
		t.Fatal(err)
	}
	if u, _ := owner(); int(u) != user {
		t.Errorf("it is user %d's", u)
	}
	if err := i.TakeBack(dir); err != nil {
		t.Fatal(err)
	}
	if u, mode := owner(); u != 0 || mode != 0o600 {
		t.Errorf("taken back it is user %d's, mode %o", u, mode)
	}
}
