package blk_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/virtio/blk"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

// helperEnv makes the test binary another process that opens a disk, says how
// that went, and keeps it until its input ends.
const helperEnv = "HVCTL_TEST_BLK_OPEN"

func TestMain(m *testing.M) {
	how, path, ok := strings.Cut(os.Getenv(helperEnv), ":")
	if !ok {
		os.Exit(m.Run())
	}
	_, err := blk.New(blk.Options{Path: path, ReadOnly: how == "ro"})
	switch {
	case err == nil:
		fmt.Println("open")
	case errors.Is(err, blk.ErrLocked):
		fmt.Println("locked")
	default:
		fmt.Println(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// other is a process that has tried to open a disk.
type other struct {
	cmd *exec.Cmd
	in  io.Closer
	got string
}

func elsewhere(t *testing.T, how, path string, cred *syscall.Credential) *other {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+how+":"+path)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o := &other{cmd: cmd, in: in}
	t.Cleanup(func() { o.end(false) })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	o.got = strings.TrimSpace(line)
	return o
}

func (o *other) end(kill bool) {
	if kill {
		_ = o.cmd.Process.Kill()
	}
	_ = o.in.Close()
	_ = o.cmd.Wait()
}

func TestWritersLockEverybodyOut(t *testing.T) {
	path, _ := imageFile(t, 512)
	for _, c := range []struct {
		first, second string
		want          string
	}{{"rw", "rw", "locked"}, {"rw", "ro", "locked"}, {"ro", "rw", "locked"}, {"ro", "ro", "open"}} {
		t.Run(c.first+" then "+c.second, func(t *testing.T) {
			a := elsewhere(t, c.first, path, nil)
			if a.got != "open" {
				t.Fatal(a.got)
			}
			if b := elsewhere(t, c.second, path, nil); b.got != c.want {
				t.Errorf("another process: %s", b.got)
			}
			// In one process two disks are two users as well.
			dev, err := blk.New(blk.Options{Path: path, ReadOnly: c.second == "ro"})
			if (err == nil) != (c.want == "open") || err != nil && (!errors.Is(err, blk.ErrLocked) || !strings.Contains(err.Error(), path)) {
				t.Errorf("this process: %v", err)
			}
			if err == nil {
				_ = dev.Close()
			}
		})
	}
}

// The lock belongs to the open file, not to the process: other users of the
// file in this process neither pass it nor drop it.
func TestLockIsTheOpenFiles(t *testing.T) {
	path, _ := imageFile(t, 512)
	dev, err := blk.New(blk.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if _, err := blk.New(blk.Options{Path: path}); !errors.Is(err, blk.ErrLocked) {
		t.Errorf("a second disk here: %v", err)
	}
	if _, err := os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if o := elsewhere(t, "rw", path, nil); o.got != "locked" {
		t.Errorf("elsewhere: %s", o.got)
	}
}

// A killed VMM leaves no lock behind, a closed disk neither.
func TestLockEndsWithItsHolder(t *testing.T) {
	path, _ := imageFile(t, 512)
	for _, kill := range []bool{true, false} {
		a := elsewhere(t, "rw", path, nil)
		if a.got != "open" {
			t.Fatal(a.got)
		}
		a.end(kill)
	}
	dev, err := blk.New(blk.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	if a := elsewhere(t, "rw", path, nil); a.got != "open" {
		t.Error(a.got)
	}
}

func TestImagesThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, n int) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	fifo, loop := filepath.Join(dir, "fifo"), filepath.Join(dir, "loop")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, says string }{
		"missing":       {filepath.Join(dir, "nothing"), "no such file"},
		"empty":         {file("empty", 0), "is empty"},
		"odd size":      {file("odd", 513), "truncate -s %512"},
		"less than one": {file("small", 511), "multiple of the 512-byte sector"},
		"directory":     {dir, "neither a regular file nor a block device"},
		"fifo":          {fifo, "neither a regular file nor a block device"},
		"character":     {"/dev/zero", "neither a regular file nor a block device"},
		"links":         {loop, "too many levels"},
		"not a folder":  {file("plain", 512) + "/x", "not a directory"},
	} {
		for _, ro := range []bool{false, true} {
			_, err := blk.New(blk.Options{Path: c.path, ReadOnly: ro})
			if !errors.Is(err, blk.ErrImage) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("%s, read-only %v: %v", name, ro, err)
			}
		}
	}
}

func TestImageWithoutPermission(t *testing.T) {
	path, _ := imageFile(t, 512)
	for d := filepath.Dir(path); strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var cred *syscall.Credential
	if os.Geteuid() == 0 { // who may do everything
		cred = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	if o := elsewhere(t, "rw", path, cred); !strings.Contains(o.got, "permission denied") || !strings.Contains(o.got, path) || !strings.Contains(o.got, "ro=on") {
		t.Errorf("for writing: %s", o.got)
	}
	if o := elsewhere(t, "ro", path, cred); o.got != "open" {
		t.Errorf("for reading: %s", o.got)
	}
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if o := elsewhere(t, "ro", path, cred); !strings.Contains(o.got, "permission denied") || strings.Contains(o.got, "ro=on") {
		t.Errorf("for reading: %s", o.got)
	}
}

// Who truncates an image under a guest gets it I/O errors, not a dead VMM.
func TestImageTruncatedUnderUs(t *testing.T) {
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	if err := os.Truncate(k.path, 1000*512); err != nil {
		t.Fatal(err)
	}
	for sector, want := range map[uint64]byte{0: ok, 998: ok, 999: ioErr, 1000: ioErr, sectors - 2: ioErr} {
		st, in, _ := k.request(typeIn, sector, virtiotest.In(1024))
		if st != want || st == ok && !bytes.Equal(in, k.want[sector*512:][:1024]) {
			t.Errorf("read at %d: status %d", sector, st)
		}
	}
	if n := k.metrics().Failures.Load(); n != 3 {
		t.Errorf("%d failures", n)
	}
	if err := os.Truncate(k.path, 0); err != nil {
		t.Fatal(err)
	}
	if st, _, _ := k.request(typeIn, 0, virtiotest.In(512)); st != ioErr {
		t.Errorf("read of an empty file: status %d", st)
	}
	if st, _, _ := k.request(typeGetID, 0, virtiotest.In(20)); st != ok {
		t.Errorf("the device is gone: status %d", st)
	}
}

// limitEnv makes TestHostWriteError the process whose files may not grow.
const limitEnv = "HVCTL_TEST_BLK_LIMIT"

func TestHostWriteError(t *testing.T) {
	if os.Getenv(limitEnv) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestHostWriteError$", "-test.v")
		cmd.Env = append(os.Environ(), limitEnv+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestHostWriteError")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	const limit = 1000*512 + 100
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(err)
	}
	p := bytes.Repeat([]byte{0x55}, 1024)
	for sector, want := range map[uint64]byte{0: ok, 998: ok, 999: ioErr, 1000: ioErr, sectors - 2: ioErr} {
		if st, _, written := k.request(typeOut, sector, virtiotest.Out(p)); st != want || written != 1 {
			t.Errorf("write at %d: status %d", sector, st)
		}
	}
	if m := k.metrics(); m.Failures.Load() != 3 || m.Writes.Load() != 2 || m.WriteBytes.Load() != 2048 {
		t.Errorf("%d failures, %d writes of %d bytes", m.Failures.Load(), m.Writes.Load(), m.WriteBytes.Load())
	}
	if st, in, _ := k.request(typeIn, 998, virtiotest.In(512)); st != ok || !bytes.Equal(in, p[:512]) {
		t.Errorf("read: status %d", st)
	}
}
