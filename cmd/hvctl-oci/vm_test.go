package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestVMFilesLeadNowhere: what the owner of a VM is handed of the host is of no
// further use to a guest that took the owner over, though it is root.
func TestVMFilesLeadNowhere(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "given"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"secret", "given/file"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	given, err := mountOf(filepath.Join(dir, "given"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	for name, ok := range map[string]bool{"file": true, "../secret": false, "../../../../etc/passwd": false} {
		fd, err := unix.Openat(int(given.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		if (err == nil) != ok {
			t.Errorf("open of %s below the directory: %v", name, err)
		}
	}
	fd, err := unix.Openat(int(given.Fd()), "new", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatalf("logs cannot be written: %v", err)
	}
	unix.Close(fd)

	file, err := readOnly(filepath.Join(dir, "given/file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, flags := range []int{os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC} {
		f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), flags, 0)
		if err == nil {
			f.Close()
			t.Errorf("opened for writing again, with flags %#x", flags)
		}
	}
	cache, err := mountOf(filepath.Join(dir, "given"), true)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	if fd, err := unix.Openat(int(cache.Fd()), "new", unix.O_WRONLY|unix.O_CLOEXEC, 0); err != unix.EROFS {
		unix.Close(fd)
		t.Errorf("a file of a read-only directory was opened for writing: %v", err)
	}
}
