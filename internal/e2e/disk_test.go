package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
)

// A disk with several queues, served either way, keeps what the guest writes,
// and grows and is held to limits while the guest runs. With a stock kernel and PCI
// devices and memory come and go, too.
func TestDisksGrowAndAreLimitedWhileTheGuestRuns(t *testing.T) {
	testenv.Require(t, testenv.QEMUImg)
	for engine, machine := range map[string][]string{"uring": {fast, "mmio"}, "plain": {"cloud", "pci"}} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			disk := filepath.Join(h.root, ".disk")
			if err := os.WriteFile(disk, make([]byte, 4<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			image, over := filepath.Join(h.root, ".image"), filepath.Join(h.root, ".overlay")
			script := "printf base >$0.raw && truncate -s 1M $0.raw && qemu-img convert -c -f raw -O qcow2 $0.raw $0"
			if out, err := exec.Command("sh", "-c", script, image).CombinedOutput(); err != nil {
				t.Fatalf("qemu-img: %v: %s", err, out)
			}
			layered := []string{"--disk", "path=" + image + ",format=qcow2,overlay=" + over}
			if machine[1] == "pci" {
				// The next disk comes later, and memory, which is then not zeroed to be given back.
				layered = []string{"--max-memory", "1G", "--cmdline", "init_on_alloc=0"}
			}
			h.ok(append(append([]string{"run", "-d", "--name", "d", "--kernel", machine[0], "--transport", machine[1], "--cpus", "2", "--network", "none",
				"--disk", "path=" + disk + ",serial=data,queues=2,engine=" + engine}, layered...), "debian:bookworm", "sleep", "1000")...)
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
			if machine[1] == "pci" {
				memoryComesAndGoes(t, h, "d")
				devicesComeAndGo(t, h, sh)
			} else if r := h.hvctl("device", "add", "--disk", disk, "d"); r.code == 0 || !strings.Contains(r.err, "--transport pci") {
				t.Errorf("plugged in without PCI: exit %d, %q", r.code, r.err)
			} else if got := sh("head -c 4 /dev/vdc; printf over | dd of=/dev/vdc bs=1 seek=70000 conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; tail -c +70001 /dev/vdc | head -c 4"); got != "baseover" {
				t.Errorf("the disk over an image in qcow2 has %q", got)
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

// devicesComeAndGo plugs a disk and a network interface into the guest d, whose
// shell is sh, uses them and takes them out.
func devicesComeAndGo(t *testing.T, h *host, sh func(string) string) {
	t.Helper()
	file := filepath.Join(h.root, ".plugged")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	add := func() {
		t.Helper()
		if id := strings.TrimSpace(h.ok("device", "add", "--disk", "path="+file+",serial=more", "d")); id != "more" {
			t.Fatalf("the disk is called %q", id)
		}
	}
	add()
	if out := h.ok("device", "ls", "d"); !strings.Contains(out, "more") {
		t.Errorf("device ls:\n%s", out)
	}
	if r := h.hvctl("snapshot", "create", "d"); r.code == 0 || !strings.Contains(r.err, "more was plugged in") {
		t.Errorf("a snapshot: exit %d, %q", r.code, r.err)
	}
	if got := sh("cat /sys/block/vdc/serial /sys/block/vdc/size && test -b /dev/vdc"); got != "more2048" {
		t.Errorf("the guest has the disk as %q", got)
	}
	sh("printf hello | dd of=/dev/vdc bs=512 seek=7 conv=fsync,sync 2>/dev/null")
	h.ok("update", "--disk", "more,size=2M", "d")
	eventually(t, "the guest sees the new size", func() bool { return sh("cat /sys/block/vdc/size") == "4096" })
	h.ok("device", "rm", "d", "more")
	if got := sh("ls /sys/block /dev"); strings.Contains(got, "vdc") {
		t.Errorf("the guest still has %q", got)
	}
	if b, err := os.ReadFile(file); err != nil || string(b[7*512:7*512+5]) != "hello" {
		t.Errorf("what the guest wrote is not there: %v", err)
	}
	if r := h.hvctl("device", "rm", "d", "data"); r.code == 0 || !strings.Contains(r.err, "stays") {
		t.Errorf("a disk from the start: exit %d, %q", r.code, r.err)
	}

	// Pulled out while it is read and written: the guest's errors, not ours.
	add()
	sh("(while dd if=/dev/zero of=/dev/vdc bs=64k count=32 oflag=direct; do :; done; echo over >/tmp/over) >/dev/null 2>&1 &")
	h.ok("device", "rm", "--force", "--timeout", "60s", "d", "more")
	eventually(t, "the guest's writes fail", func() bool { return sh("cat /tmp/over 2>/dev/null || true") == "over" })

	const tap = "e2etap1"
	if out, err := exec.Command("ip", "tuntap", "add", "dev", tap, "mode", "tap").CombinedOutput(); err != nil {
		t.Fatalf("the tap: %v: %s", err, out)
	}
	defer func() { _ = exec.Command("ip", "tuntap", "del", "dev", tap, "mode", "tap").Run() }()
	h.ok("device", "add", "--network", "tap:"+tap, "--mac-address", "02:00:00:00:00:77", "d")
	if got := sh("cat /sys/class/net/*/address"); !strings.Contains(got, "02:00:00:00:00:77") {
		t.Errorf("the guest's interfaces: %q", got)
	}
	h.ok("device", "rm", "d", "plug0")
	if got := sh("cat /sys/class/net/*/address"); strings.Contains(got, "02:00:00:00:00:77") {
		t.Errorf("the guest still has the interface: %q", got)
	}
}
