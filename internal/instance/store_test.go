package instance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hvctl/hvctl/internal/workload"
)

// TestMain also plays an owner that holds a handed-over lock until its
// standard input ends.
func TestMain(m *testing.M) {
	if dir := os.Getenv("INSTANCE_TEST_OWNER"); dir != "" {
		h, err := ReadHandover()
		i, err2 := OpenDir(dir)
		if err := errors.Join(err, err2); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if err := i.AdoptLock(os.NewFile(uintptr(h.Lock), "lock")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_ = i.WriteState(workload.State{Status: workload.Running, PID: os.Getpid()})
		fmt.Println("ok")
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *Store, name string, o CreateOptions) *Instance {
	t.Helper()
	i, err := s.Create(&workload.Config{Name: name}, o)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// owner hands i to a child process and returns it with its stdin.
func owner(t *testing.T, i *Instance) (*exec.Cmd, func()) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "INSTANCE_TEST_OWNER="+i.Dir(), Handover{Lock: 3}.Encode())
	c.ExtraFiles = []*os.File{i.LockFile()}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	i.Unlock()
	b := make([]byte, 512)
	n, _ := out.Read(b)
	if string(b[:n]) != "ok\n" {
		t.Fatalf("owner: %s", b[:n])
	}
	return c, func() { in.Close() }
}

func status(t *testing.T, i *Instance) workload.Status {
	t.Helper()
	st, err := i.State()
	if err != nil {
		t.Fatal(err)
	}
	return st.Status
}

func TestLockHandedToOwnerTellsDeadFromRunning(t *testing.T) {
	s := newStore(t)
	i := create(t, s, "web", CreateOptions{})
	c, _ := owner(t, i)
	if got := status(t, i); got != workload.Running {
		t.Errorf("with an owner: %s", got)
	}
	if err := i.TryLock(); !errors.Is(err, ErrLocked) {
		t.Errorf("lock of a living owner: %v", err)
	}
	if _, err := s.Create(&workload.Config{Name: "web"}, CreateOptions{Replace: true}); !errors.Is(err, ErrNameInUse) {
		t.Errorf("living name: %v", err)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	if got := status(t, i); got != workload.Dead {
		t.Errorf("after kill -9: %s", got)
	}
	n := create(t, s, "web", CreateOptions{})
	if all, _ := s.List(); len(all) != 1 || all[0].ID() != n.ID() {
		t.Errorf("the dead one is still listed: %v", all)
	}
}

func TestCreationCutShortDoesNotBlock(t *testing.T) {
	for name, cut := range map[string]func(s *Store, i *Instance){
		"link only": func(s *Store, i *Instance) { os.RemoveAll(i.Dir()) },
		"hidden directory": func(s *Store, i *Instance) {
			os.Rename(i.Dir(), filepath.Join(s.Root(), ".new-"+i.ID()))
		},
		"no state":        func(s *Store, i *Instance) {},
		"removal started": func(s *Store, i *Instance) { os.Rename(i.Dir(), filepath.Join(s.Root(), ".old-"+i.ID())) },
		"corrupt config":  func(s *Store, i *Instance) { os.WriteFile(filepath.Join(i.Dir(), configFile), []byte("{"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			i := create(t, s, "web", CreateOptions{})
			cut(s, i)
			i.Unlock()
			create(t, s, "web", CreateOptions{}).Unlock()
			ents, err := os.ReadDir(s.Root())
			if err != nil {
				t.Fatal(err)
			}
			if len(ents) != 4 { // .events .lock .names and the new one
				t.Errorf("left behind: %v", ents)
			}
		})
	}
}

func TestNameConflicts(t *testing.T) {
	s := newStore(t)
	i := create(t, s, "web", CreateOptions{Created: true})
	if _, err := s.Create(&workload.Config{Name: "web"}, CreateOptions{}); !errors.Is(err, ErrNameInUse) {
		t.Errorf("being created: %v", err)
	}
	i.Unlock()
	for _, st := range []workload.Status{workload.Created, workload.Exited} {
		if err := i.WriteState(workload.State{Status: st}); err != nil {
			t.Fatal(err)
		}
		_, err := s.Create(&workload.Config{Name: "web"}, CreateOptions{})
		if !errors.Is(err, ErrNameInUse) || !strings.Contains(err.Error(), "hvctl rm web") {
			t.Errorf("%s: %v", st, err)
		}
	}
	n, err := s.Create(&workload.Config{Name: "web"}, CreateOptions{Replace: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(i.ID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("replaced one: %v", err)
	}
	if got, err := s.Open("web"); err != nil || got.ID() != n.ID() {
		t.Errorf("name leads to %v, %v", got, err)
	}
}

func TestOpenByNameIDAndPrefix(t *testing.T) {
	s := newStore(t)
	mk := func(id, name string) *Instance {
		i, err := s.Create(&workload.Config{ID: id + strings.Repeat("0", 64-len(id)), Name: name}, CreateOptions{Created: true})
		if err != nil {
			t.Fatal(err)
		}
		i.Unlock()
		return i
	}
	a, b := mk("abc1", "one"), mk("abc2", "ab") // a name that is also a prefix wins
	for ref, want := range map[string]*Instance{"one": a, a.ID(): a, "abc1": a, "abc20": b, "ab": b} {
		if got, err := s.Open(ref); err != nil || got.ID() != want.ID() {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	for ref, want := range map[string]error{"abc": ErrAmbiguous, "f": ErrNotFound, "": ErrNotFound, "../x": ErrNotFound, "two": ErrNotFound} {
		if _, err := s.Open(ref); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", ref, err, want)
		}
	}
	if err := a.TryLock(); err != nil {
		t.Fatal(err)
	}
	if err := a.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open("one"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after Remove: %v", err)
	}
	if _, err := a.State(); !errors.Is(err, ErrNotFound) {
		t.Errorf("state after Remove: %v", err)
	}
}

func TestParallelCreateGivesOneWinner(t *testing.T) {
	s := newStore(t)
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for n := range errs {
		wg.Go(func() { _, errs[n] = s.Create(&workload.Config{Name: "web"}, CreateOptions{}) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, ErrNameInUse) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d winners", won)
	}
}

func TestNames(t *testing.T) {
	for _, n := range []string{"a", "A0", "web-1.x_y", strings.Repeat("x", 128)} {
		if err := CheckName(n); err != nil {
			t.Error(err)
		}
	}
	for _, n := range []string{"", "-a", ".a", "_a", "a/b", "a b", "ä", "a\x00", strings.Repeat("x", 129)} {
		if err := CheckName(n); !errors.Is(err, ErrBadName) {
			t.Errorf("%q: %v", n, err)
		}
	}
	s := newStore(t)
	seen := map[string]bool{}
	for range 50 {
		i := create(t, s, "", CreateOptions{})
		if seen[i.Name()] || CheckName(i.Name()) != nil {
			t.Errorf("name %q", i.Name())
		}
		seen[i.Name()] = true
	}
}

func TestSocketUnderLongPath(t *testing.T) {
	s, err := OpenStore(filepath.Join(t.TempDir(), strings.Repeat("d", 100), strings.Repeat("e", 100)))
	if err != nil {
		t.Fatal(err)
	}
	i := create(t, s, "web", CreateOptions{})
	l, err := i.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Write([]byte("hi"))
			c.Close()
		}
	}()
	c, err := i.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 2)
	if _, err := c.Read(b); err != nil || string(b) != "hi" {
		t.Errorf("%q, %v", b, err)
	}
	if fi, err := os.Stat(filepath.Join(i.Dir(), socketFile)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
}

func TestRootOfAnotherUserIsRefused(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	refused := []string{open}
	if os.Geteuid() == 0 { // nobody else can give a directory away
		theirs, link := filepath.Join(dir, "theirs"), filepath.Join(dir, "link")
		if err := errors.Join(os.Mkdir(theirs, 0o700), os.Chown(theirs, 1000, 1000), os.Symlink(dir, link), os.Lchown(link, 1000, 1000)); err != nil {
			t.Fatal(err)
		}
		refused = append(refused, theirs, link)
	}
	for _, root := range refused {
		if _, err := OpenStore(root); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v", root, err)
		}
		if _, err := os.Lstat(filepath.Join(root, namesDir)); err == nil {
			t.Errorf("%s: something was made in it", root)
		}
	}
	own := filepath.Join(dir, "own")
	if err := os.Symlink(t.TempDir(), own); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(own); err != nil {
		t.Errorf("a link of one's own: %v", err)
	}
}

func TestHostileFilesAreRefused(t *testing.T) {
	s := newStore(t)
	i := create(t, s, "web", CreateOptions{})
	for name, content := range map[string][]byte{
		"truncated":  []byte(`{"id":`),
		"other id":   []byte(`{"id":"` + NewID() + `"}`),
		"huge":       bytes.Repeat([]byte(" "), maxFile+1),
		"wrong type": []byte(`[]`),
	} {
		if err := os.WriteFile(filepath.Join(i.Dir(), configFile), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenDir(i.Dir()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAdoptLockRefusesAnotherFile(t *testing.T) {
	s := newStore(t)
	a, b := create(t, s, "a", CreateOptions{}), create(t, s, "b", CreateOptions{})
	if err := a.AdoptLock(b.LockFile()); err == nil {
		t.Error("took another instance's lock")
	}
	f, err := os.OpenFile(filepath.Join(a.Dir(), lockFile), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := a.AdoptLock(f); !errors.Is(err, ErrLocked) {
		t.Errorf("descriptor without the lock: %v", err)
	}
}
