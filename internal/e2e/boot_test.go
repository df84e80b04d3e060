package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
)

// bootInit is the guest of TestBoot: it shows its disk, echoes a line of its
// console and ends as it is told to.
const bootInit = `#!/bin/busybox sh
/bin/busybox mkdir /dev /proc
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t proc none /proc
exec </dev/ttyS0 >/dev/ttyS0 2>&1
echo "disk: $(/bin/busybox head -c 11 /dev/vda)"
echo "args: $(/bin/busybox cat /proc/cmdline)"
read how
echo "ending by $how"
case $how in
poweroff) /bin/busybox poweroff -f ;;
reboot) /bin/busybox reboot -f ;;
esac
exit 1 # the end of init is a kernel panic
`

// TestBoot: somebody's own kernel, initramfs and disk, on the serial console.
func TestBoot(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	kernel := filepath.Join(testenv.TestKernels(), fast, "vmlinuz")
	initrd, disk := bootArchive(t, dir), filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(disk, append([]byte("hello, disk"), make([]byte, 4096-11)...), 0o600); err != nil {
		t.Fatal(err)
	}
	for how, code := range map[string]int{"poweroff": 0, "reboot": 1, "panic": 2} {
		t.Run(how, func(t *testing.T) {
			h := h.in(t)
			s := h.startTTY("boot", "--rm", "--kernel", kernel, "--initrd", initrd, "--disk", "path="+disk+",ro",
				"--cmdline", "console=ttyS0 quiet panic=-1 our.word=1", "-m", "128M")
			s.expect("disk: hello, disk")
			s.expect("our.word=1")
			s.typ(how + "\n")
			if got := s.wait(); got != code || !strings.Contains(s.text(), "ending by "+how) {
				t.Errorf("exit %d, want %d; console %q", got, code, s.text())
			}
		})
	}
}

// bootArchive makes the initramfs with the cpio program.
func bootArchive(t *testing.T, dir string) string {
	t.Helper()
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err) // package busybox-static
	}
	for name, content := range map[string][]byte{"init": []byte(bootInit), "bin/busybox": busybox} {
		if err := os.WriteFile(filepath.Join(tree, name), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command("cpio", "-o", "-H", "newc", "--quiet")
	c.Dir, c.Stdin = tree, strings.NewReader("init\nbin\nbin/busybox\n")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatal(fmt.Errorf("cpio: %w: %s", err, stderr.String()))
	}
	path := filepath.Join(dir, "initrd")
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBootVsock: a CID of the host belongs to one VM, and goes with it; the
// other backend knows nothing of it.
func TestBootVsock(t *testing.T) {
	testenv.Require(t, testenv.VhostVsock)
	h := newHost(t)
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(disk, append([]byte("hello, disk"), make([]byte, 4096-11)...), 0o600); err != nil {
		t.Fatal(err)
	}
	boot := []string{
		"boot", "--rm", "--kernel", filepath.Join(testenv.TestKernels(), fast, "vmlinuz"), "--initrd", bootArchive(t, dir),
		"--disk", "path=" + disk + ",ro", "--cmdline", "console=ttyS0 quiet panic=-1", "-m", "128M",
	}
	with := func(vsock string) []string { return append(slices.Clone(boot), "--vsock", vsock) }
	for range 2 {
		s := h.startTTY(with("cid=4200,backend=vhost")...)
		s.expect("disk: hello, disk")
		r := h.hvctl(with("cid=4200,backend=vhost")...)
		if r.code == 0 || !strings.Contains(r.err, "CID 4200 belongs to another VM of this host; choose another cid") {
			t.Errorf("a second VM with the CID: exit %d, %q", r.code, r.err)
		}
		s.typ("poweroff\n")
		if got := s.wait(); got != 0 {
			t.Errorf("exit %d; console %q", got, s.text())
		}
	}
	socket := filepath.Join(h.root, "vsock")
	s := h.startTTY(with("cid=4200,path=" + socket)...)
	s.expect("disk: hello, disk")
	if _, err := os.Stat(socket); err != nil {
		t.Error(err)
	}
	s.typ("poweroff\n")
	if got := s.wait(); got != 0 {
		t.Errorf("exit %d; console %q", got, s.text())
	}
}
