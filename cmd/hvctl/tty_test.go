package main

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/workload/workloadtest"
	"golang.org/x/sys/unix"
)

// screen is a real terminal with a call on it.
type screen struct {
	*call
	ptm *os.File

	mu  sync.Mutex
	buf bytes.Buffer
}

// onTerminal makes c's three streams a terminal of 100 by 30.
func (c *call) onTerminal() *screen {
	c.w.t.Helper()
	ptm, pts, err := workloadtest.OpenPTY()
	if err != nil {
		c.w.t.Fatal(err)
	}
	if err := workloadtest.SetSize(ptm, 100, 30); err != nil {
		c.w.t.Fatal(err)
	}
	s := &screen{call: c, ptm: ptm}
	c.w.t.Cleanup(func() { ptm.Close(); pts.Close() })
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = pts, pts, pts
	c.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := ptm.Read(b)
			s.mu.Lock()
			s.buf.Write(b[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *screen) expect(text string) {
	s.w.t.Helper()
	s.w.eventually("terminal shows "+text, func() bool { return strings.Contains(s.text(), text) })
}

func (s *screen) typ(text string) {
	s.w.t.Helper()
	if _, err := s.ptm.WriteString(text); err != nil {
		s.w.t.Fatal(err)
	}
}

// cooked tells whether the terminal echoes and edits lines.
func (s *screen) cooked() bool {
	c, err := s.ptm.SyscallConn()
	if err != nil {
		s.w.t.Fatal(err)
	}
	ok := false
	_ = c.Control(func(fd uintptr) {
		t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		ok = err == nil && t.Lflag&unix.ICANON != 0 && t.Lflag&unix.ECHO != 0
	})
	return ok
}

func TestTerminalSession(t *testing.T) {
	w := newWorld(t)
	s := w.hv("run", "--rm", "-it", "host", "sh").onTerminal()
	s.start()
	s.typ("tty; stty size; echo a''b $TERM\n")
	s.expect("/dev/pts/")
	s.expect("30 100\r\n")
	s.expect("ab xterm\r\n")
	if s.cooked() {
		t.Error("our terminal is not raw")
	}
	if err := workloadtest.SetSize(s.ptm, 120, 40); err != nil {
		t.Fatal(err)
	}
	w.eventually("new size", func() bool {
		s.typ("stty size\n")
		time.Sleep(20 * time.Millisecond)
		return strings.Contains(s.text(), "40 120\r\n")
	})
	s.typ("trap 'echo interru''pted' INT; echo s''et\n")
	s.expect("set\r\n")
	s.typ("\x03") // a byte of the session, not a signal to us
	s.typ("\n")
	s.expect("interrupted")
	s.typ("exit 6\n")
	if code := s.wait(); code != 6 {
		t.Errorf("exit code %d: %s", code, s.text())
	}
	if !s.cooked() {
		t.Error("the terminal was not restored")
	}
}

func TestEndOfFileOnTerminal(t *testing.T) {
	w := newWorld(t)
	s := w.hv("run", "--rm", "-it", "host", "sh").onTerminal()
	s.start()
	s.expect("# ")
	s.typ("\x04")
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d: %s", code, s.text())
	}
}

func TestDetachAndAttach(t *testing.T) {
	w := newWorld(t)
	s := w.hv("run", "-it", "--name", "web", "host", "sh").onTerminal()
	s.start()
	s.typ("echo fi''rst\n")
	s.expect("first\r\n")
	s.typ("\x10\x11") // ctrl-p ctrl-q
	if code := s.wait(); code != 0 || !s.cooked() {
		t.Errorf("detached: exit code %d, terminal restored %v", code, s.cooked())
	}
	if got := w.status("web"); got != "running" {
		t.Fatalf("status %s", got)
	}
	a := w.hv("attach", "--detach-keys", "ctrl-x", "web").onTerminal()
	a.start()
	a.typ("echo sec''ond\n")
	a.expect("second\r\n")
	a.typ("\x10\x11\necho p''q\n") // not its detach keys
	a.expect("pq\r\n")
	a.typ("\x18")
	if code := a.wait(); code != 0 {
		t.Errorf("detached from attach: %d", code)
	}
	b := w.hv("attach", "web").onTerminal()
	b.start()
	b.typ("exit 4\n")
	if code := b.wait(); code != 4 {
		t.Errorf("attach: exit code %d: %s", code, b.text())
	}
	if got := w.must("logs", "web"); !strings.Contains(got, "first") || !strings.Contains(got, "second") {
		t.Errorf("log: %q", got)
	}
}

func TestExecOnTerminal(t *testing.T) {
	w := newWorld(t)
	w.must("run", "-d", "--name", "web", "host", "sleep", "1000")
	s := w.hv("exec", "-it", "web", "sh").onTerminal()
	s.start()
	s.typ("stty size; tty\n")
	s.expect("30 100\r\n")
	s.typ("exit 3\n")
	if code := s.wait(); code != 3 || !s.cooked() {
		t.Errorf("exit code %d, restored %v: %s", code, s.cooked(), s.text())
	}
}

// The owner's death, too, gives the terminal back.
func TestTerminalRestoredWhenOwnerDies(t *testing.T) {
	w := newWorld(t)
	s := w.hv("run", "--rm", "-it", "--name", "web", "host", "sh").onTerminal()
	s.start()
	s.typ("echo u''p\n")
	s.expect("up\r\n")
	pid := w.ownerPID("web")
	w.kill9(pid)
	if code := s.wait(); code != 137 || !s.cooked() {
		t.Errorf("exit code %d, restored %v: %s", code, s.cooked(), s.text())
	}
	s.expect("owner process was killed")
	if got := w.must("ps", "-aq"); got != "" {
		t.Errorf("--rm left %s", got)
	}
}

func TestTerminalNeedsATerminal(t *testing.T) {
	w := newWorld(t)
	w.fails(125, []string{"-t", "no terminal"}, "run", "--rm", "-it", "host")
}

func TestDetachReader(t *testing.T) {
	for _, c := range []struct {
		keys, in, out string
		detached      bool
	}{
		{"ctrl-p,ctrl-q", "ab\x10\x11cd", "ab", true},
		{"ctrl-p,ctrl-q", "a\x10b\x10\x10\x11", "a\x10b\x10", true},
		{"ctrl-p,ctrl-q", "\x10\x10\x10x", "\x10\x10\x10x", false},
		{"a,a,b", "aaab", "a", true},
		{"ctrl-]", "\x1d", "", true},
	} {
		keys, err := parseDetachKeys(c.keys)
		if err != nil {
			t.Fatal(err)
		}
		for _, whole := range []bool{true, false} {
			d := &detachReader{r: &pieces{s: c.in, whole: whole}, keys: keys}
			var out bytes.Buffer
			_, err = out.ReadFrom(d)
			if (err != nil) != c.detached || out.String() != c.out {
				t.Errorf("%q of %q (whole %v): %q, %v", c.in, c.keys, whole, out.String(), err)
			}
		}
	}
	for _, s := range []string{"ctrl-", "abc", "ctrl-p,", ","} {
		if _, err := parseDetachKeys(s); err == nil {
			t.Errorf("%q: accepted", s)
		}
	}
}
