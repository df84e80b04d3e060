package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A disk with several queues, served either way, keeps what the guest writes,
// and grows and is held to limits while the guest runs.
func TestDisksGrowAndAreLimitedWhileTheGuestRuns(t *testing.T) {
	for _, engine := range []string{"uring", "plain"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			disk := filepath.Join(h.root, ".disk")
			if err := os.WriteFile(disk, make([]byte, 4<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			h.ok("run", "-d", "--name", "d", "--kernel", fast, "--cpus", "2", "--network", "none",
				"--disk", "path="+disk+",serial=data,queues=2,engine="+engine, "debian:bookworm", "sleep", "1000")
			sh := func(script string) string {
				t.Helper()
				return strings.TrimSpace(h.ok("exec", "d", "sh", "-c", script))
			}
			if n := sh("ls /sys/block/vdb/mq | wc -l"); n != "2" {
				t.Errorf("%s queues, want 2", n)
			}
			sum := sh("dd if=/dev/urandom of=/dev/vdb bs=64k count=48 conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; head -c 3145728 /dev/vdb | md5sum")
			h.ok("update", "--disk", "data,size=6M", "d")
			eventually(t, "the guest sees the new size", func() bool { return sh("cat /sys/block/vdb/size") == "12288" })
			if err := os.Truncate(disk, 8<<20); err != nil {
				t.Fatal(err)
			}
			h.ok("update", "--disk", "data,size=auto,iops=200", "d")
			eventually(t, "the guest sees the file's size", func() bool { return sh("cat /sys/block/vdb/size") == "16384" })
			sh("printf end | dd of=/dev/vdb bs=1 seek=8388605 conv=fsync 2>/dev/null")
			if got := sh("echo 3 >/proc/sys/vm/drop_caches; head -c 3145728 /dev/vdb | md5sum"); got != sum {
				t.Errorf("what was written is now %s, was %s", got, sum)
			}
			if r := h.hvctl("update", "--disk", "data,size=1M", "d"); r.code == 0 || !strings.Contains(r.err, "does not shrink") {
				t.Errorf("shrunk: exit %d, %q", r.code, r.err)
			}
			if r := h.hvctl("update", "--disk", "other,iops=1", "d"); r.code == 0 || !strings.Contains(r.err, "data") {
				t.Errorf("a disk that is not there: exit %d, %q", r.code, r.err)
			}
			h.ok("rm", "-f", "d")
			b, err := os.ReadFile(disk)
			if err != nil || string(b[len(b)-3:]) != "end" {
				t.Errorf("the file's end: %v", err)
			}
		})
	}
}

// A file system without direct I/O is refused by name; with it, both ways of
// reading agree.
func TestDisksPastThePageCache(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.root, ".disk")
	if err := os.WriteFile(file, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(h.root, &st); err != nil {
		t.Fatal(err)
	}
	r := h.hvctl("run", "--rm", "--kernel", fast, "--network", "none", "--disk", "path="+file+",cache=none", "debian:bookworm", "sh", "-c",
		"dd if=/dev/urandom of=/dev/vdb bs=64k oflag=direct count=32 conv=fsync 2>/dev/null && md5sum </dev/vdb && dd if=/dev/vdb bs=512 iflag=direct 2>/dev/null | md5sum")
	if st.Type == unix.TMPFS_MAGIC && r.code == 125 {
		if !strings.Contains(r.err, "cache=writeback") {
			t.Errorf("refused with %q", r.err)
		}
		return
	}
	sums := strings.Fields(r.out)
	if r.code != 0 || len(sums) != 4 || sums[0] != sums[2] {
		t.Errorf("exit %d, %q, %q", r.code, r.out, r.err)
	}
}
