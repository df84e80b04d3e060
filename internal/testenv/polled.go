package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Polled returns what this process's epolls watch: descriptors, and what they are
// of, as in /proc/self/fd ("/dev/net/tun", "anon_inode:[eventfd]"). Each time one of
// them becomes ready, a thread wakes.
func Polled(t testing.TB) map[int]string {
	t.Helper()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil || len(infos) == 0 {
		t.Fatalf("no descriptors under /proc/self/fdinfo: %v", err)
	}
	found := map[int]string{}
	for _, info := range infos {
		b, err := os.ReadFile(info)
		if err != nil {
			continue // closed meanwhile
		}
		for line := range strings.Lines(string(b)) {
			var fd int
			if n, _ := fmt.Sscanf(line, "tfd: %d", &fd); n == 1 {
				found[fd], _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			}
		}
	}
	return found
}
