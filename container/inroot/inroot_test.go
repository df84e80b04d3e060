package inroot_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/container/inroot"
	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

// tree makes a root with a victim beside it.
func tree(t *testing.T) (root inroot.Root, dir, victim string) {
	t.Helper()
	base := t.TempDir()
	dir, victim = filepath.Join(base, "root"), filepath.Join(base, "victim")
	for _, d := range []string{dir, victim} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return inroot.Root(fd), dir, victim
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
		t.Errorf("%s was touched: %v, %v", dir, es, err)
	}
}

func TestLinksStayInside(t *testing.T) {
	root, dir, victim := tree(t)
	for name, target := range map[string]string{"abs": victim, "rel": "../victim", "up": "../../../../../../../.."} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if fd, err := root.MkdirAll(name+"/new/deep", 0o755); err == nil {
			unix.Close(fd)
		}
		if fd, err := root.Touch(name + "/file"); err == nil {
			unix.Close(fd)
		}
	}
	empty(t, victim)
	if _, err := os.Stat("/new"); err == nil {
		t.Error("/new was made on the host")
	}
}

func TestRealRefusesLinks(t *testing.T) {
	root, dir, _ := tree(t)
	if err := errors.Join(os.Mkdir(dir+"/d", 0o755), os.Symlink("d", dir+"/proc")); err != nil {
		t.Fatal(err)
	}
	if _, err := root.OpenReal("/proc", unix.O_PATH); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link as /proc: %v", err)
	}
	fd, err := root.Open("/proc", unix.O_PATH)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
}

func TestDanglingLinkIsNotMade(t *testing.T) {
	root, dir, victim := tree(t)
	if err := os.Symlink(victim+"/made", dir+"/x"); err != nil {
		t.Fatal(err)
	}
	if _, err := root.Touch("x"); err == nil {
		t.Error("touched through a dangling link")
	}
	if _, err := root.MkdirAll("x", 0o755); err == nil {
		t.Error("made through a dangling link")
	}
	empty(t, victim)
}

// TestRacingLink exchanges a directory with a link to the outside as fast as
// it can while directories and files are made below it.
func TestRacingLink(t *testing.T) {
	root, dir, victim := tree(t)
	if err := errors.Join(os.Mkdir(dir+"/a", 0o755), os.Symlink(victim, dir+"/b")); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, dir+"/a", unix.AT_FDCWD, dir+"/b", unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 3000 {
		if fd, err := root.MkdirAll("a/x/y", 0o755); err == nil {
			unix.Close(fd)
		}
		if fd, err := root.Touch("a/f"); err == nil {
			unix.Close(fd)
		}
		os.RemoveAll(dir + "/a/x")
	}
	close(stop)
	<-done
	empty(t, victim)
}

func TestProcIgnoresWhatCoversIt(t *testing.T) {
	testenv.Require(t, testenv.Root)
	p, err := inroot.OpenProc()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Write("self/oom_score_adj", "0"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link was followed: %v", err)
	}
	if err := p.Write("../etc/x", "0"); !errors.Is(err, unix.EXDEV) {
		t.Errorf("left the procfs: %v", err)
	}
	if err := p.Write("sys/kernel/nosuch", "0"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("missing file: %v", err)
	}
}
