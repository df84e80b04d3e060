package ociattack

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// console listens for the terminal that a runtime sends.
type console struct {
	path string
	got  chan *os.File
}

func newConsole(t *testing.T) *console {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "c") //nolint:usetesting // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &console{path: filepath.Join(dir, "s"), got: make(chan *os.File, 1)}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		defer close(c.got)
		conn, err := l.AcceptUnix()
		if err != nil {
			return // the listener was closed: no terminal came
		}
		defer conn.Close()
		buf, oob := make([]byte, 4096), make([]byte, 64)
		_, n, _, _, err := conn.ReadMsgUnix(buf, oob)
		if err != nil {
			return
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(msgs) != 1 {
			return
		}
		if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) == 1 {
			if unix.SetNonblock(fds[0], true) == nil {
				c.got <- os.NewFile(uintptr(fds[0]), "console")
			}
		}
	}()
	return c
}

// output reads what the container writes to its terminal until it ends.
func (c *console) output(t *testing.T) string {
	t.Helper()
	var f *os.File
	select {
	case f = <-c.got:
	case <-time.After(30 * time.Second):
	}
	if f == nil {
		t.Fatal("no terminal came")
	}
	defer f.Close()
	if err := f.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return b.String() // EIO: the other side is closed
		}
	}
}

// TestConsoleDoesNotFollowTheImage: the terminal is not bound onto what the
// image has at /dev/console or /dev/pts (CVE-2025-52565).
func TestConsoleDoesNotFollowTheImage(t *testing.T) {
	h := newHost(t)
	for _, tc := range []struct{ name, at, target string }{
		{"/dev/console, absolute", "dev/console", "/victim/file"},
		{"/dev/console, relative", "dev/console", "../../../VICTIM/file"},
		{"/dev/console into proc", "dev/console", corePattern},
		{"/dev/pts", "dev/pts", "/victim"},
		{"/dev/ptmx", "dev/ptmx", "../../../VICTIM/file"},
		{"/dev/tty", "dev/tty", "../../../VICTIM/file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			victim, changed := h.victim()
			before := readFile(t, corePattern)
			b := h.bundle(`echo pwned >/dev/console; stat -L -c console=%t /dev/console`)
			b.without("/dev")
			b.without("/dev/shm")
			if err := os.Mkdir(filepath.Join(b.rootfs, "dev/pts"), 0o755); err != nil {
				t.Fatal(err)
			}
			b.symlink(strings.ReplaceAll(tc.target, "VICTIM", filepath.Base(victim)), tc.at)
			b.spec.Process.Terminal = true
			b.save()
			c := newConsole(t)
			id := newID()
			r := h.do("create", "--bundle", b.dir, "--console-socket", c.path, id)
			if r.code == 0 {
				if s := h.do("start", id); s.code == 0 {
					if out := c.output(t); !strings.Contains(out, "console=88") {
						t.Errorf("/dev/console is no terminal: %q", out)
					}
				}
			}
			h.do("delete", "--force", id)
			if diff := changed(); diff != "" {
				t.Errorf("the victim changed; %s", diff)
			}
			if after := readFile(t, corePattern); after != before {
				if err := os.WriteFile(corePattern, []byte(before), 0o644); err != nil {
					t.Error(err)
				}
				t.Errorf("the host's core pattern is now %q", after)
			}
			t.Logf("create: exit %d %s", r.code, strings.TrimSpace(r.err))
		})
	}
}

// TestTerminalIsTheContainersOwn: with a terminal the container has a session
// and a pty of its own devpts.
func TestTerminalIsTheContainersOwn(t *testing.T) {
	h := newHost(t)
	b := h.bundle(`tty; cut -d' ' -f1,6,7 /proc/self/stat; ls /dev/pts; readlink /proc/self/fd/0`)
	b.spec.Process.Terminal = true
	b.save()
	c := newConsole(t)
	id := newID()
	h.ok("create", "--bundle", b.dir, "--console-socket", c.path, id)
	h.ok("start", id)
	out := c.output(t)
	if !strings.Contains(out, "/dev/pts/0") || strings.Contains(out, "not a tty") {
		t.Errorf("output: %q", out)
	}
	h.ok("delete", "--force", id)
}

// TestCallersTerminalIsOutOfReach: without a terminal of its own, the container
// does not have the caller's as its controlling one, so that it cannot push
// input to it (TIOCSTI), and is in a session of its own.
func TestCallersTerminalIsOutOfReach(t *testing.T) {
	h := newHost(t)
	ptmx, pts := openPTY(t)
	defer ptmx.Close()
	defer pts.Close()
	out := filepath.Join(h.dir, "stat")
	b := h.bundle("")
	// Fields of /proc/PID/stat: pid 1, session 6, controlling terminal 7.
	b.spec.Process.Args = []string{"/bin/cut", "-d ", "-f1,6,7", "/proc/self/stat"}
	b.save()
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	onTerminal := func(c *exec.Cmd) {
		c.Stdin, c.Stdout = pts, f
		c.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	}
	r := h.doWith(onTerminal, "run", "--bundle", b.dir, newID())
	if got := strings.Fields(readFile(t, out)); r.code != 0 || len(got) != 3 || got[0] != got[1] || got[2] != "0" {
		t.Errorf("pid, session, terminal: %q; %v", got, r)
	}

	// A program started the same way without a runtime has it.
	c := exec.Command("cut", "-d ", "-f1,6,7", "/proc/self/stat")
	onTerminal(c)
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(readFile(t, out)); len(got) != 3 || got[2] == "0" {
		t.Errorf("no program has it, so this proves nothing: %q", got)
	}
}

func openPTY(t *testing.T) (ptmx, pts *os.File) {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(ptmx.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	pts, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return ptmx, pts
}

// TestSessionKeyringIsNew: the container does not possess the caller's keys.
func TestSessionKeyringIsNew(t *testing.T) {
	h := newHost(t)
	b := h.bundle("cat /proc/keys")
	key := "hvctl-" + newID()
	withKey := func(c *exec.Cmd) {
		// keyctl(1) is not everywhere: a copy of this program adds the key to a new
		// session keyring and becomes the runtime.
		c.Args = append([]string{os.Args[0]}, c.Args...)
		c.Path = os.Args[0]
		c.Env = append(os.Environ(), "OCIATTACK_KEY="+key)
	}
	r := b.runWith(withKey)
	if r.code != 0 || !strings.Contains(r.out, "_ses") || strings.Contains(r.out, key) {
		t.Errorf("%v", r)
	}
	if r := b.runWith(withKey, "--no-new-keyring"); r.code != 0 || !strings.Contains(r.out, key) {
		t.Errorf("the key is not there with the caller's keyring either, so this proves nothing: %v", r)
	}
}

// TestMain is also the program that TestSessionKeyringIsNew puts before the
// runtime.
func TestMain(m *testing.M) {
	key := os.Getenv("OCIATTACK_KEY")
	if key == "" {
		os.Exit(m.Run())
	}
	os.Unsetenv("OCIATTACK_KEY")
	_, err := unix.KeyctlJoinSessionKeyring("ociattack")
	var id int
	if err == nil {
		id, err = unix.AddKey("user", key, []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING)
	}
	if err == nil {
		err = unix.KeyctlSetperm(id, 0x3f000000) // /proc/keys shows it to who possesses it only
	}
	if err == nil {
		err = unix.Exec(os.Args[1], os.Args[1:], os.Environ())
	}
	os.Stderr.WriteString("keyring: " + err.Error() + "\n")
	os.Exit(99)
}
