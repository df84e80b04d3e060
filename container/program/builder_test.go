package program

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

// below runs steps that work below the directory dir and returns how they
// failed.
func below(t *testing.T, dir string, write func(c *creator)) error {
	t.Helper()
	c := &creator{builder: newBuilder()}
	c.root = c.Space(8)
	c.Call("open the root", unix.SYS_OPEN, c.text(dir), dirPath|unix.O_CLOEXEC).Store(c.root)
	write(c)
	c.Call("exit", unix.SYS_EXIT_GROUP, 0)
	run, err := c.Program.Start([]*os.File{os.Stdin, os.Stdout, os.Stderr}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer run.Close()
	_, err = run.Next()
	var st unix.WaitStatus
	if _, werr := unix.Wait4(run.PID, &st, 0, nil); werr != nil {
		t.Fatal(werr)
	}
	if errors.Is(err, io.EOF) {
		if !st.Exited() || st.ExitStatus() != 0 {
			t.Fatalf("it ended with %v", st)
		}
		return nil
	}
	return err
}

// tree makes a root with a victim beside it.
func tree(t *testing.T) (dir, victim string) {
	t.Helper()
	base := t.TempDir()
	dir, victim = filepath.Join(base, "root"), filepath.Join(base, "victim")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(victim, 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir, victim
}

func untouched(t *testing.T, dir string) {
	t.Helper()
	if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
		t.Errorf("%s was touched: %v, %v", dir, es, err)
	}
}

func (c *creator) makeBoth(dir, file string) {
	fd := c.Space(8)
	c.mkdirAll(c.root, dir, fd)
	c.close(fd)
	c.touch(c.root, file, fd)
	c.close(fd)
}

func TestMissingPartsAreMade(t *testing.T) {
	dir, _ := tree(t)
	if err := os.Mkdir(dir+"/a", 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time all is there
		if err := below(t, dir, func(c *creator) { c.makeBoth("/a/b/c", "/a/d/file") }); err != nil {
			t.Fatal(err)
		}
	}
	for name, isDir := range map[string]bool{"a/b/c": true, "a/d/file": false} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.IsDir() != isDir {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
}

func TestLinksStayInside(t *testing.T) {
	dir, victim := tree(t)
	for name, target := range map[string]string{"abs": victim, "rel": "../victim", "up": "../../../../../../../.."} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		_ = below(t, dir, func(c *creator) { c.makeBoth(name+"/new/deep", name+"/file") }) // it may fail
	}
	untouched(t, victim)
	if _, err := os.Stat("/new"); err == nil {
		t.Error("/new was made on the host")
	}
}

func TestDanglingLinkIsNotMade(t *testing.T) {
	dir, victim := tree(t)
	if err := os.Symlink(victim+"/made", dir+"/x"); err != nil {
		t.Fatal(err)
	}
	for name, write := range map[string]func(*creator){
		"touch": func(c *creator) { c.touch(c.root, "/x", c.Space(8)) },
		"mkdir": func(c *creator) { c.mkdirAll(c.root, "/x", c.Space(8)) },
	} {
		if err := below(t, dir, write); err == nil {
			t.Errorf("%s went through a dangling link", name)
		}
	}
	untouched(t, victim)
}

func TestRealDirRefusesLinks(t *testing.T) {
	dir, _ := tree(t)
	if err := errors.Join(os.Mkdir(dir+"/d", 0o755), os.Symlink("d", dir+"/proc")); err != nil {
		t.Fatal(err)
	}
	if err := below(t, dir, func(c *creator) { c.realDir("/proc", c.Space(8)) }); !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a link as /proc: %v", err)
	}
	if err := below(t, dir, func(c *creator) { c.realDir("/sys", c.Space(8)) }); err != nil {
		t.Errorf("a missing directory: %v", err)
	}
}

// TestRacingLink exchanges a directory with a link to the outside as fast as
// it can while directories and files are made below it.
func TestRacingLink(t *testing.T) {
	dir, victim := tree(t)
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
	for range 100 {
		_ = below(t, dir, func(c *creator) { // it fails now and then
			for range 20 {
				c.makeBoth("/a/x/y", "/a/f")
			}
		})
		os.RemoveAll(dir + "/a/x")
	}
	close(stop)
	<-done
	untouched(t, victim)
}

func TestProcIsTheKernelsOwn(t *testing.T) {
	testenv.Require(t, testenv.Root)
	write := func(name, value string) error {
		return below(t, "/", func(c *creator) { c.writeProc(c.openProc(), "test", name, value, nil) })
	}
	for _, c := range []struct {
		name string
		want unix.Errno
	}{{"self/oom_score_adj", 0}, {"../etc/x", unix.EXDEV}, {"sys/kernel/nosuch", unix.ENOENT}, {"self/root/etc/x", unix.ELOOP}} {
		err := write(c.name, "500")
		if c.want == 0 && err != nil || c.want != 0 && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}
