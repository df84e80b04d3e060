package instance

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A record that names a process that is not the owner kills nobody; the one that
// holds the lock is killed.
func TestOnlyTheOwnerIsKilled(t *testing.T) {
	i := create(t, newStore(t), "web", CreateOptions{})
	own, _ := owner(t, i)
	other := exec.Command("sleep", "1000")
	other.Stdin = nil // /dev/null
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })

	if err := i.KillOwner(other.Process.Pid); !errors.Is(err, ErrNotOwner) || !strings.Contains(err.Error(), lockFile) {
		t.Errorf("another process: %v", err)
	}
	// A link to what the other has open does not make it the owner.
	lock := filepath.Join(i.dir, lockFile)
	if err := errors.Join(os.Rename(lock, lock+".kept"), os.Symlink("/dev/null", lock)); err != nil {
		t.Fatal(err)
	}
	_ = i.KillOwner(other.Process.Pid) // whatever it says
	if err := os.Rename(lock+".kept", lock); err != nil {
		t.Fatal(err)
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, other.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil || info.Signo != 0 {
		t.Errorf("the other process has ended (%v)", err)
	}

	if err := i.KillOwner(own.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := own.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the owner ended with %v", err)
	}
	if err := i.KillOwner(own.Process.Pid); err != nil {
		t.Errorf("an owner that is gone: %v", err)
	}
}
