package spawn

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStartWithHighDescriptors has descriptors to connect that lie where the
// fork moves things to: the program's own must not be overwritten by that.
func TestStartWithHighDescriptors(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	exe, err := os.Open("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	for distance := range 12 {
		fd, err := unix.FcntlInt(null.Fd(), unix.F_DUPFD_CLOEXEC, 3+distance)
		if err != nil {
			t.Fatal(err)
		}
		high := os.NewFile(uintptr(fd), "high")
		pid, err := Start(&Request{Exe: exe, Args: []string{"true"}, Files: []*os.File{high, null, null, null}})
		high.Close()
		if err != nil {
			t.Fatalf("descriptor %d: %v", fd, err)
		}
		var st unix.WaitStatus
		if _, err := unix.Wait4(pid, &st, 0, nil); err != nil || !st.Exited() || st.ExitStatus() != 0 {
			t.Errorf("descriptor %d: ended with %v, %v", fd, st, err)
		}
	}
}
